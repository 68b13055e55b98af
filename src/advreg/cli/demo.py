"""The verb ``demo``: attack a plain network, train a robust one and compare both, on the MNIST of the package.

plain mnist-dnn -> PGD, as in a published experiment
plain mnist-cnn, robust mnist-cnn -> attacks over a grid of eps -> one table, one page
plain mnist-cnn -> adversarial fine-tuning -> cost and accuracy beside training from scratch
"""

from __future__ import annotations

import functools
import time
from pathlib import Path

import typer
from rich.table import Table

from advreg import attacks, report
from advreg import data as datasets
from advreg.cli import progress, tables
from advreg.config import Config
from advreg.evaluation import Curve, Evaluation, Protocol, ProtocolStage, evaluate, robustness_curve
from advreg.models import load
from advreg.runs import RunFolder
from advreg.threat import ThreatModel
from advreg.training import fit
from advreg.training.finetune import fine_tune

THREAT = ThreatModel("linf", 0.1)
"""The threat model of the demo."""
_UNBOXED = ThreatModel("linf", 0.1, box=(-1.0, 2.0))  # the published experiment lets pixels leave [0, 1]
_N = 1000  # test images, from the first
_COST = "trains three networks on the MNIST of the package and attacks them: about 3 minutes on two cores, 10 MB"
GRID = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
"""Values of eps of the robustness curves."""

# Kolter and Madry, "Adversarial robustness: theory and practice", chapter 3: SGD 0.1, 10 epochs, PGD from zero, step 0.01.
_PUBLISHED = {"clean": 0.021, "pgd": 0.9838}
_TUTORIAL = Protocol(
    "tutorial", 1, (ProtocolStage("pgd-40", functools.partial(attacks.pgd, step_size=0.01, start="zero")),)
)

_ADAM = ["optimizer.name=adam", "schedule.name=triangular", "schedule.options.peak=0.3"]
_SMALL = ["model.name=zoo:mnist-small", *_ADAM]
_RECIPES = {
    "plain-dnn": ["model.name=zoo:mnist-dnn", "optimizer.lr=0.1", "optimizer.momentum=0.0", "train.batch_size=100"],
    "plain-cnn": [*_SMALL, "optimizer.lr=2e-3", "train.epochs=4"],
    "robust-cnn": [*_SMALL, "optimizer.lr=5e-3", "recipe.name=madry", "attack.name=pgd", "attack.steps=2"],
}


def run_demo(out: Path) -> None:
    """Run the demo into a folder; a second run shows the results there and computes only what is missing.

    Args:
        out: folder for the runs and the report.
    """
    started = time.perf_counter()
    _, test = datasets.load_images("mnist")
    if out.exists():
        typer.echo(f"{out} exists: only missing results are computed; remove it to start again")
    else:
        typer.echo(f"{_COST} into {out}")
    runs = {name: _train(name, out / name) for name in _RECIPES}
    replicated = [_replicate(runs["plain-dnn"], test, threat) for threat in (_UNBOXED, THREAT)]
    tables.show(_experiment_table(*replicated))
    pair = {name: _measure(name, runs[name], test) for name in ("plain-cnn", "robust-cnn")}
    tables.show(_comparison_table(pair))
    page = _write_pages(list(runs.values()), out / "report.html")
    typer.echo(f"done in {tables.minutes(time.perf_counter() - started)}; open {page}: it links the page of every run")


def _write_pages(runs: list[Path], page: Path) -> Path:
    """Write the comparison and the page of every run; the comparison is written again, now that there are pages to link."""
    report.write_comparison(runs, page)
    for run in runs:
        report.write(run)
    return report.write_comparison(runs, page)


def run_finetune(out: Path) -> None:
    """Make the plain network robust by fine-tuning, and show the cost; a second run computes only what is missing.

    Args:
        out: folder for the runs.
    """
    _, test = datasets.load_images("mnist")
    plain = _train("plain-cnn", out / "plain-cnn")
    tuned = _fit("fine-tuned", fine_tune(_config("robust-cnn", out / "finetuned-cnn"), plain))
    runs = {"plain": plain, "fine-tuned": tuned, "from scratch": _train("robust-cnn", out / "robust-cnn")}
    found = {name: _attack(name, run, test) for name, run in runs.items()}
    costs = {name: _cost(run) for name, run in runs.items()}
    tables.show(_cost_table(found, costs))


def _train(name: str, folder: Path) -> Path:
    return _fit(name, _config(name, folder))


def _config(name: str, folder: Path) -> Config:
    return Config().replace_with(["threat.eps=0.1", *_RECIPES[name], f"train.out={folder}"])


def _fit(name: str, config: Config) -> Path:
    started = (Path(config.train.out) / "run.toml").exists()
    with progress.training(label=name) as watch:
        return fit(config, resume=started, on_event=watch).path


def _cost(run: Path) -> tuple[int, float]:
    """Return the example-forwards and example-backwards of a training together, and its seconds."""
    epochs = [line for line in RunFolder.open(run).read_log("metrics.jsonl") if "event" not in line]
    return sum(line["forwards"] + line["backwards"] for line in epochs), sum(line["seconds"] for line in epochs)


def _measure(name: str, run: Path, test: datasets.Dataset) -> tuple[Evaluation, Curve]:
    found = _attack(name, run, test)
    folder = run / "evaluation" / found.protocol
    return found, robustness_curve(load(str(run)), test, norm="linf", eps=GRID, n=_N, out=folder)


def _attack(name: str, run: Path, test: datasets.Dataset) -> Evaluation:
    with progress.evaluating(label=f"attacking {name}") as watch:
        return evaluate(load(str(run)), test, threat=THREAT, protocol="basic", n=_N, out=run, on_progress=watch)


def _replicate(run: Path, test: datasets.Dataset, threat: ThreatModel) -> Evaluation:
    with progress.evaluating(label="attacking plain-dnn") as watch:
        return evaluate(load(str(run)), test, threat=threat, protocol=_TUTORIAL, out=run, on_progress=watch)


def _experiment_table(as_published: Evaluation, boxed: Evaluation) -> Table:
    rows = [
        ("error on clean images", tables.percent(_PUBLISHED["clean"]), tables.percent(1 - as_published.clean_accuracy)),
        ("error under PGD", tables.percent(_PUBLISHED["pgd"]), tables.percent(1 - as_published.robust_accuracy)),
        ("error under PGD, pixels kept in [0, 1]", "-", tables.percent(1 - boxed.robust_accuracy)),
    ]
    title = "A plain network breaks: 784-200-100-100-10, linf 0.1, 40 steps of 0.01, all 10,000 test images"
    return tables.table(title, ("", "published", "measured"), rows)


def _comparison_table(pair: dict[str, tuple[Evaluation, Curve]]) -> Table:
    (plain, plain_curve), (robust, robust_curve) = pair.values()
    both = list(zip(plain_curve.points, robust_curve.points, strict=True))
    rows = [
        ("clean accuracy", tables.percent(plain.clean_accuracy), tables.percent(robust.clean_accuracy)),
        *(
            (
                f"FGSM then PGD-40, linf {THREAT.eps:g}",
                tables.percent(a.robust_accuracy),
                tables.percent(b.robust_accuracy),
            )
            for a, b in [(plain, robust)]
        ),
        *(
            (f"protocol quick, linf {p.eps:g}", tables.percent(p.robust_accuracy), tables.percent(q.robust_accuracy))
            for p, q in both
        ),
        ("attack success rate", tables.percent(plain.attack_success_rate), tables.percent(robust.attack_success_rate)),
    ]
    title = "A network trained on its worst case holds: 1,000 test images"
    return tables.table(title, ("", "plain CNN", "robust CNN"), rows)


def _cost_table(found: dict[str, Evaluation], costs: dict[str, tuple[int, float]]) -> Table:
    rows = [
        ("clean accuracy", *(tables.percent(each.clean_accuracy) for each in found.values())),
        (f"FGSM then PGD-40, linf {THREAT.eps:g}", *(tables.percent(each.robust_accuracy) for each in found.values())),
        ("passes of single images", *(f"{passes / 1e6:.1f} million" for passes, _ in costs.values())),
        ("time", *(tables.minutes(seconds) for _, seconds in costs.values())),
    ]
    title = (
        f"A plain network made robust by fine-tuning: {_N:,} test images; its price comes on top of the plain network's"
    )
    return tables.table(title, ("", *found), rows)

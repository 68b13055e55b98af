"""The demo: break a network, make one robust, and show both, on the MNIST that comes with the package.

plain mnist-dnn -> PGD (a published experiment, measured again)
plain mnist-cnn, robust mnist-cnn -> PGD-40 over a grid of eps -> one table, one page
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
from advreg.evaluation import Curve, Evaluation, Protocol, Stage, evaluate, robustness_curve
from advreg.models import load
from advreg.threat import ThreatModel
from advreg.training import fit

THREAT = ThreatModel("linf", 0.1)
_UNBOXED = ThreatModel("linf", 0.1, box=(-1.0, 2.0))  # the published experiment lets pixels leave [0, 1]
GRID = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)

# Kolter and Madry, "Adversarial robustness: theory and practice", chapter 3: SGD 0.1, 10 epochs, PGD from zero, step 0.01.
_PUBLISHED = {"clean": 0.021, "pgd": 0.9838}
_TUTORIAL = Protocol("tutorial", 1, (Stage("pgd-40", functools.partial(attacks.pgd, step_size=0.01, start="zero")),))

_ADAM = ["optimizer.name=adam", "schedule.name=triangular", "schedule.options.peak=0.3"]
_SMALL = ["model.name=zoo:mnist-small", *_ADAM]
_RECIPES = {
    "plain-dnn": ["model.name=zoo:mnist-dnn", "optimizer.lr=0.1", "optimizer.momentum=0.0", "train.batch_size=100"],
    "plain-cnn": [*_SMALL, "optimizer.lr=2e-3", "train.epochs=4"],
    "robust-cnn": [*_SMALL, "optimizer.lr=5e-3", "recipe.name=madry", "attack.name=pgd", "attack.steps=2"],
}


def run_demo(out: Path) -> None:
    """Run the demo into a folder; a second run shows what is there and does only what is missing."""
    began = time.perf_counter()
    _, test = datasets.load("mnist")
    if out.exists():
        typer.echo(f"{out} is there already: only what is missing in it is run; remove it to start afresh")
    runs = {name: _trained(name, out / name) for name in _RECIPES}
    broken = [_repeated(runs["plain-dnn"], test, threat) for threat in (_UNBOXED, THREAT)]
    tables.show(_experiment(*broken))
    pair = {name: _measured(name, runs[name], test) for name in ("plain-cnn", "robust-cnn")}
    tables.show(_contest(pair))
    for run in runs.values():
        report.write(run)
    page = report.write_comparison([runs["plain-cnn"], runs["robust-cnn"]], out / "report.html")
    typer.echo(f"done in {progress.minutes(time.perf_counter() - began)}; the report: {page}")
    typer.echo(f"the pictures: {runs['robust-cnn'] / 'report.html'}")


def _trained(name: str, folder: Path) -> Path:
    config = Config().replace_with(["threat.eps=0.1", *_RECIPES[name], f"train.out={folder}"])
    with progress.training(label=name) as watch:
        return fit(config, resume=(folder / "run.toml").exists(), on_event=watch).path


def _measured(name: str, run: Path, test: datasets.Dataset) -> tuple[Evaluation, Curve]:
    network = load(str(run))
    with progress.evaluating(label=f"attacking {name}") as watch:
        found = evaluate(network, test, threat=THREAT, protocol="basic", n=1000, out=run, on_progress=watch)
    where = run / "evaluation" / found.protocol
    return found, robustness_curve(network, test, norm="linf", eps=GRID, n=1000, out=where)


def _repeated(run: Path, test: datasets.Dataset, threat: ThreatModel) -> Evaluation:
    with progress.evaluating(label="attacking plain-dnn") as watch:
        return evaluate(load(str(run)), test, threat=threat, protocol=_TUTORIAL, out=run, on_progress=watch)


def _experiment(as_published: Evaluation, boxed: Evaluation) -> Table:
    rows = [
        ("error on clean images", tables.percent(_PUBLISHED["clean"]), tables.percent(1 - as_published.clean_accuracy)),
        ("error under PGD", tables.percent(_PUBLISHED["pgd"]), tables.percent(1 - as_published.robust_accuracy)),
        ("error under PGD, pixels kept in [0, 1]", "-", tables.percent(1 - boxed.robust_accuracy)),
    ]
    title = "A plain network breaks: 784-200-100-100-10, linf 0.1, 40 steps of 0.01, all 10,000 test images"
    return tables.table(title, ("", "published", "measured"), rows)


def _contest(pair: dict[str, tuple[Evaluation, Curve]]) -> Table:
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
            (f"PGD-40, linf {p.eps:g}", tables.percent(p.robust_accuracy), tables.percent(q.robust_accuracy))
            for p, q in both
        ),
        ("attack success rate", tables.percent(plain.attack_success_rate), tables.percent(robust.attack_success_rate)),
    ]
    title = "A network trained on its worst case holds: 1,000 test images"
    return tables.table(title, ("", "plain CNN", "robust CNN"), rows)

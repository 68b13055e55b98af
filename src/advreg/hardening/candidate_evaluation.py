"""Evaluation of a model for the gate: sealed set, incidents, backdoor checks. All results go to its run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from advreg import models
from advreg.attacks.verification import logits_of
from advreg.diagnosis import diagnose
from advreg.evaluation import evaluate
from advreg.hardening.activation_outliers import activation_outliers
from advreg.hardening.attack_families import THREAT, families, protocol
from advreg.hardening.backdoor_checks import BackdoorProbe, canaries, choose_canaries, drift
from advreg.hardening.datasets import HardeningData, load_pixels
from advreg.hardening.retrain import Accepted
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row
from advreg.hardening.trigger_inversion import pattern_norms, trigger, trigger_sizes
from advreg.hardening.workspace import Workspace
from advreg.runs import RunFolder

_TRIGGER_IMAGES = 48
_DIAGNOSED = 200


def evaluate_holdout(home: Workspace, run: RunFolder, stock: HardeningData) -> str:
    """Attack a run's model on the sealed set, resuming a started evaluation, and return the protocol's id.

    Args:
        home: the workspace.
        run: the model's run folder.
        stock: the data of the loop.
    """
    settings = home.config
    first = settings.data.sealed_from
    chosen = protocol(families(settings.attacks), first, first + settings.data.sealed)
    evaluate(models.load(str(run.path)), stock.sealed, threat=THREAT, protocol=chosen, seed=settings.seed, out=run.path)
    return chosen.id(THREAT)


def needs_diagnosis(home: Workspace) -> bool:
    """Return whether challengers of this workspace need a diagnosis: it is enabled and an attack is a norm ball.

    Args:
        home: the workspace.
    """
    return home.config.gate.diagnose and any(one.ball for one in families(home.config.attacks))


def evaluate_diagnosis(home: Workspace, run: RunFolder, stock: HardeningData) -> None:
    """Diagnose a run's model on the first norm ball and write ``diagnosis.json``, unless it is there already.

    Args:
        home: the workspace.
        run: the model's run folder.
        stock: the data of the loop.
    """
    model, balls = models.load(str(run.path)), [one.ball for one in families(home.config.attacks) if one.ball]
    diagnosed = run.read_json("diagnosis.json").get("model", {}) if (run / "diagnosis.json").is_file() else {}
    if diagnosed.get("sha256") != models.state_sha256(model):
        n = min(_DIAGNOSED, len(stock.sealed))
        diagnose(model, stock.sealed, balls[0], n, quick=True, seed=home.config.seed, out=run.path)


def evaluate_incidents(store: Store, home: Workspace, run: RunFolder, incidents: Sequence[Row]) -> None:
    """Query a run's model on every confirmed incident and write ``incidents.json``.

    Args:
        store: the store with the images.
        home: the workspace.
        run: the model's run folder.
        incidents: rows of the confirmed examples.
    """
    model = models.load(str(run.path))
    predicted: list[int] = []
    if incidents:
        channels, height, width = home.base_model()["shape"]
        x = load_pixels(store, [row["sha256"] for row in incidents], (channels, height, width))
        predicted = logits_of(model, x).argmax(1).tolist()
    rows = [
        {"example": row["sha256"], "label": row["label"], "predicted": found, "broken": found != row["label"]}
        for row, found in zip(incidents, predicted, strict=True)
    ]
    record = {"schema": "advreg/incidents@1", "model": models.state_sha256(model), "rows": rows}
    run.write_json("incidents.json", record)


@dataclass(frozen=True)
class ProbedRuns:
    """The run folders of a comparison: the challenger, the champion (the last trusted model) and the trusted base."""

    challenger: RunFolder
    champion: RunFolder
    base: RunFolder


def evaluate_probes(home: Workspace, runs: ProbedRuns, stock: HardeningData, admitted: Accepted) -> None:
    """Check a challenger for backdoors and drift, and write ``probes.json``.

    Args:
        home: the workspace.
        runs: the challenger, the champion, and the base, which also chooses the canaries.
        stock: the data of the loop.
        admitted: the examples that the challenger was trained on.
    """
    x, y = stock.pool.tensors()
    model, base = (models.load(str(run.path)) for run in (runs.challenger, runs.base))
    chosen, classes = choose_canaries(base, x, y), stock.pool.classes
    rules = home.config.gate
    checks = [
        canaries(model, x[chosen], y[chosen], classes),
        *_trigger_checks(runs, x[:_TRIGGER_IMAGES], classes, home.config.seed),
        activation_outliers(model, base, (admitted.x, admitted.y), (x, y), classes),
        drift(model, base, *stock.sealed.tensors(), margin=rules.chain, alpha=rules.alpha / rules.gates),
    ]
    record = {"schema": "advreg/probes@1", "model": models.state_sha256(model), "checks": [vars(one) for one in checks]}
    runs.challenger.write_json("probes.json", record)


def _trigger_checks(runs: ProbedRuns, images: Tensor, classes: Sequence[str], seed: int) -> list[BackdoorProbe]:
    """Compare the smallest triggers of each kind with those of the champion and of the base."""
    folders = {"challenger": runs.challenger, "champion": runs.champion, "base": runs.base}
    sizes = {name: _sizes(run, images, len(classes), seed) for name, run in folders.items()}
    return [
        trigger(sizes["challenger"][key], {model: sizes[model][key] for model in ("champion", "base")}, classes, name)
        for name, key in (("trigger", "areas"), ("pattern", "norms"))
    ]


def _sizes(run: RunFolder, images: Tensor, classes: int, seed: int) -> dict[str, list[float]]:
    """Return a model's trigger sizes of each kind, from its run folder if they were measured before."""
    model = models.load(str(run.path))
    identity = {"schema": "advreg/trigger@1", "model": models.state_sha256(model), "seed": seed, "n": len(images)}
    if (run / "trigger.json").is_file():
        known = run.read_json("trigger.json")
        if all(known.get(key) == value for key, value in identity.items()) and "norms" in known:
            return {key: [float(size) for size in known[key]] for key in ("areas", "norms")}
    sizes = {
        "areas": trigger_sizes(model, images, classes, seed=seed),
        "norms": pattern_norms(model, images, classes, seed=seed),
    }
    run.write_json("trigger.json", {**identity, **sizes})
    return sizes

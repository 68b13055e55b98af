"""Evaluation of a model for the gate: sealed set, incidents, backdoor checks. All results go to its run folder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from advreg import models
from advreg.attacks.verification import logits_of
from advreg.diagnosis import diagnose
from advreg.evaluation import evaluate
from advreg.hardening.attack_families import THREAT, families, protocol
from advreg.hardening.backdoor_checks import canaries, choose_canaries, trigger, trigger_sizes
from advreg.hardening.datasets import HardeningData, load_pixels
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row
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


def evaluate_probes(
    home: Workspace, run: RunFolder, champion: RunFolder, base: RunFolder, stock: HardeningData
) -> None:
    """Check a challenger for backdoors and write ``probes.json``.

    Args:
        home: the workspace.
        run: the challenger's run folder.
        champion: the champion's run folder.
        base: run folder of the trusted base, which chooses the canaries.
        stock: the data of the loop.
    """
    x, y = stock.pool.tensors()
    chosen = choose_canaries(models.load(str(base.path)), x, y)
    model, classes = models.load(str(run.path)), stock.pool.classes
    canary_check = canaries(model, x[chosen], y[chosen], classes)
    images = x[:_TRIGGER_IMAGES]
    sizes = [_sizes(folder, images, len(classes), home.config.seed) for folder in (run, champion)]
    checks = [vars(check) for check in (canary_check, trigger(sizes[0], sizes[1], classes))]
    run.write_json("probes.json", {"schema": "advreg/probes@1", "model": models.state_sha256(model), "checks": checks})


def _sizes(run: RunFolder, images: Tensor, classes: int, seed: int) -> list[float]:
    """Return a model's trigger sizes, from its run folder if they were measured before."""
    model = models.load(str(run.path))
    identity = {"schema": "advreg/trigger@1", "model": models.state_sha256(model), "seed": seed, "n": len(images)}
    if (run / "trigger.json").is_file():
        known = run.read_json("trigger.json")
        if all(known.get(key) == value for key, value in identity.items()):
            return [float(area) for area in known["areas"]]
    areas = trigger_sizes(model, images, classes, seed=seed)
    run.write_json("trigger.json", {**identity, "areas": areas})
    return areas

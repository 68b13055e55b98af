"""What training cost and what it bought: the recipes of several runs as the rows of one table."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advreg.report import read
from advreg.report.comparison_table import labels
from advreg.report.facts import EvaluationFacts, RunFacts
from advreg.report.formatting import threat_option

PGD, AUTOATTACK = ("quick", "basic"), ("standard",)


@dataclass(frozen=True)
class Trained:
    """One training and one threat it was measured under; what was not measured is None.

    Attributes:
        run, recipe, attack: the folder, the outer loss, how training looked for the worst case.
        threat: under which it was measured.
        clean_accuracy, pgd_accuracy, autoattack_accuracy: on the test set; PGD's from `quick` or `basic`, AutoAttack's
            from `standard`.
        n: test images, the fewest of those measurements.
        epochs, seconds: of training.
        peak_memory: bytes, of the device or, on a CPU, of the process.
        cost: passes forward and backward, as a ratio to standard training's two for each example.
    """

    run: str
    recipe: str
    attack: str
    threat: str | None = None
    clean_accuracy: float | None = None
    pgd_accuracy: float | None = None
    autoattack_accuracy: float | None = None
    n: int | None = None
    epochs: int | None = None
    seconds: float | None = None
    peak_memory: float | None = None
    cost: float | None = None


def trainings(runs: Iterable[Path | str]) -> list[Trained]:
    """Return a row for every training among the runs and every threat it was measured under.

    Args:
        runs: run folders; those that were only evaluated are left out.

    Raises:
        RunError: a folder is not a run folder, or a file in it is damaged.
    """
    return rows([read.run(run) for run in runs])


def rows(runs: Sequence[RunFacts]) -> list[Trained]:
    """Return the rows of runs that are read already; see `trainings`."""
    return [row for name, run in zip(labels(runs), runs, strict=True) if run.epochs for row in _rows(name, run)]


def _rows(name: str, run: RunFacts) -> list[Trained]:
    recipe, attack = _recipe(run.config)
    spent = {
        "epochs": len(run.epochs),
        "seconds": _total([epoch.seconds for epoch in run.epochs]),
        "peak_memory": max((epoch.peak_memory for epoch in run.epochs if epoch.peak_memory is not None), default=None),
        "cost": _cost(run),
    }
    by_threat: dict[str, list[EvaluationFacts]] = {}
    for found in run.evaluations:
        by_threat.setdefault(threat_option(found.threat), []).append(found)
    measured = [{"threat": threat, **_figures(found)} for threat, found in by_threat.items()] or [{}]
    return [Trained(run=name, recipe=recipe, attack=attack, **figures, **spent) for figures in measured]  # type: ignore[arg-type]


def _figures(found: Sequence[EvaluationFacts]) -> dict[str, object]:
    return {
        "clean_accuracy": max(found, key=lambda each: each.n).clean_accuracy,
        "pgd_accuracy": _lowest(found, PGD),
        "autoattack_accuracy": _lowest(found, AUTOATTACK),
        "n": min(each.n for each in found),
    }


def _lowest(found: Iterable[EvaluationFacts], names: Sequence[str]) -> float | None:
    return min((each.robust_accuracy for each in found if read.short_name(each.protocol) in names), default=None)


def _cost(run: RunFacts) -> float | None:
    """Return the passes of a run as a ratio to standard training on as many examples."""
    names = ("forwards", "backwards", "examples")
    forwards, backwards, examples = (_total([getattr(epoch, name) for epoch in run.epochs]) for name in names)
    if forwards is None or backwards is None or not examples:
        return None
    return (forwards + backwards) / (2 * examples)


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _recipe(config: str | None) -> tuple[str, str]:
    """Return the names of recipe and attack as run.toml has them."""
    try:
        values = tomllib.loads(config or "")
    except tomllib.TOMLDecodeError:
        values = {}
    attack = _section(values, "attack")
    name, steps = str(attack.get("name", "-")), attack.get("steps")
    return str(_section(values, "recipe").get("name", "-")), f"{name}-{steps}" if name == "pgd" and steps else name


def _section(values: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}

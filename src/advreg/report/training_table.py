"""A table of trainings: recipe, accuracy, time, memory and passes of several runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advreg.documents import parse_toml
from advreg.report import read
from advreg.report.comparison_table import labels
from advreg.report.facts import EvaluationFacts, RunFacts
from advreg.report.formatting import threat_option

PGD, AUTOATTACK = ("quick", "basic"), ("standard",)
"""Protocols that give the accuracies under PGD and AutoAttack."""


@dataclass(frozen=True)
class TrainingRow:
    """One training and one threat model of its evaluations; None for what was not measured.

    Attributes:
        run, recipe, attack: label of the run, loss, and inner attack.
        threat: threat model of the evaluations, as ``--threat`` takes it.
        clean_accuracy, pgd_accuracy, autoattack_accuracy: on the test set; PGD's from `quick` or `basic`, AutoAttack's
            from `standard`.
        n: number of test images, the smallest of these evaluations.
        epochs, seconds: of training.
        peak_memory: bytes of the device or, on a CPU, of the process.
        cost: forward and backward passes as a multiple of standard training, which needs two for each example.
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


def trainings(runs: Iterable[Path | str]) -> list[TrainingRow]:
    """Return a row for every training and every threat model of its evaluations.

    Args:
        runs: run folders; those without a training are left out.

    Returns:
        The rows, in the order of the run folders.

    Raises:
        RunError: a folder is not a run folder, or a file in it is damaged.
    """
    return rows([read.run(run) for run in runs])


def rows(runs: Sequence[RunFacts]) -> list[TrainingRow]:
    """Return the rows of runs that are already read; see `trainings`.

    Args:
        runs: facts of the runs.

    Returns:
        One row for each training and threat model.
    """
    return [row for name, run in zip(labels(runs), runs, strict=True) if run.epochs for row in _rows(name, run)]


def _rows(name: str, run: RunFacts) -> list[TrainingRow]:
    recipe, attack = _recipe(run.config)
    cost = {
        "epochs": len(run.epochs),
        "seconds": _total([epoch.seconds for epoch in run.epochs]),
        "peak_memory": max((epoch.peak_memory for epoch in run.epochs if epoch.peak_memory is not None), default=None),
        "cost": _cost(run),
    }
    by_threat: dict[str, list[EvaluationFacts]] = {}
    for evaluation in run.evaluations:
        by_threat.setdefault(threat_option(evaluation.threat), []).append(evaluation)
    measured = [{"threat": threat, **_figures(group)} for threat, group in by_threat.items()] or [{}]
    return [TrainingRow(run=name, recipe=recipe, attack=attack, **figures, **cost) for figures in measured]  # type: ignore[arg-type]


def _figures(evaluations: Sequence[EvaluationFacts]) -> dict[str, object]:
    return {
        "clean_accuracy": max(evaluations, key=lambda each: each.n).clean_accuracy,
        "pgd_accuracy": _lowest(evaluations, PGD),
        "autoattack_accuracy": _lowest(evaluations, AUTOATTACK),
        "n": min(each.n for each in evaluations),
    }


def _lowest(evaluations: Iterable[EvaluationFacts], names: Sequence[str]) -> float | None:
    return min((each.robust_accuracy for each in evaluations if read.short_name(each.protocol) in names), default=None)


def _cost(run: RunFacts) -> float | None:
    """Return the passes of a training as a multiple of standard training on as many examples."""
    names = ("forwards", "backwards", "examples")
    forwards, backwards, examples = (_total([getattr(epoch, name) for epoch in run.epochs]) for name in names)
    if forwards is None or backwards is None or not examples:
        return None
    return (forwards + backwards) / (2 * examples)


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _recipe(config: str | None) -> tuple[str, str]:
    """Return the names of recipe and attack in run.toml."""
    try:
        values = parse_toml(config or "")
    except ValueError:
        values = {}
    attack = _section(values, "attack")
    name, steps = str(attack.get("name", "-")), attack.get("steps")
    return str(_section(values, "recipe").get("name", "-")), f"{name}-{steps}" if name == "pgd" and steps else name


def _section(values: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}

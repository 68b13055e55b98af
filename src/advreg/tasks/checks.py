"""Checks that the functions of a task, the outputs of a model and the targets fit each other."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.errors import ConfigError, DataError
from advreg.objectives import (
    Objective,
    cross_entropy,
    dlr,
    margin,
    probability_margin,
    rival_margin,
    targeted_dlr,
)
from advreg.tasks.classes import CLASSES
from advreg.tasks.task import Score, Task

_OF_CLASSES = (cross_entropy, margin, dlr, probability_margin, rival_margin, targeted_dlr)
_SLACK = 1e-3  # a loss of one row alone differs by rounding


def reject_misfit(task: Task, outputs: Tensor, y: Tensor) -> None:
    """Raise unless the outputs of a model can be scored with the targets, and each row by itself.

    Args:
        task: the task.
        outputs: outputs of some examples ``(B, ...)``.
        y: targets of the same examples ``(B, ...)``.

    Raises:
        DataError: outputs and targets that do not fit; the line has the remedy.
        ConfigError: a score or an objective that is not one number for each example.
    """
    reject_unfit(task, outputs, y)
    score = _per_example(task, "score", task.score, outputs, y)
    if score.dtype is not torch.bool and not bool(((score >= 0) & (score <= 1) | score.isnan()).all()):
        ends = f"[{float(score.min()):g}, {float(score.max()):g}]"
        raise ConfigError(f"task {task.name}: score spans {ends}; give numbers in [0, 1], 1 = all right, or booleans")
    for name, objective in task.objectives.items():
        _per_example(task, f"objective {name}", objective, outputs, y)


def reject_unfit(task: Task, outputs: Tensor, y: Tensor) -> None:
    """Raise unless outputs and targets have shapes and values that fit each other.

    Args:
        task: the task.
        outputs: outputs of some examples ``(B, ...)``.
        y: targets of any number of examples ``(N, ...)``.

    Raises:
        DataError: they do not fit; the line has the remedy.
    """
    problem = task.fits(outputs, y) if task.fits else ""
    if problem:
        raise DataError(f"task {task.name}: {problem}")


def reject_objective(task: Task, objective: Objective) -> None:
    """Raise for an objective of classifiers, such as DLR, in a task that does not name it as its own.

    Args:
        task: what an output is worth.
        objective: what an attack maximises.

    Raises:
        ConfigError: the objective compares logits of classes.
    """
    if (
        task is CLASSES
        or objective not in _OF_CLASSES
        or objective in (*task.objectives.values(), task.loss, task.near)
    ):
        return
    raise ConfigError(
        f"objective {objective.__name__} compares logits of classes, and the task is {task.name}; leave objective out: "
        f"{', '.join(task.objectives)}"
    )


def _per_example(task: Task, name: str, function: Score, outputs: Tensor, y: Tensor) -> Tensor:
    """Return the values ``(B,)`` of a function that must treat each row by itself."""
    try:
        values = function(outputs, y)
    except (RuntimeError, IndexError, ValueError, TypeError) as cause:
        shapes = f"outputs {tuple(outputs.shape)} and y {tuple(y.shape)}"
        raise ConfigError(f"task {task.name}: {name} fails on {shapes}: {str(cause).splitlines()[0]}") from cause
    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if shape != (len(outputs),):
        raise ConfigError(
            f"task {task.name}: {name} returns {shape} for {len(outputs)} examples; return one value for each, (B,): "
            "reduction='none', then the mean over all axes but the first"
        )
    _reject_mixed_rows(task, name, function, (outputs, y), values)
    return values


def _reject_mixed_rows(task: Task, name: str, function: Score, examples: tuple[Tensor, Tensor], values: Tensor) -> None:
    """Raise where the value of the first row depends on the others, as the mean of a batch does."""
    outputs, y = examples
    alone = float(function(outputs[:1], y[:1])[0])
    together = float(values[0])
    if abs(alone - together) > _SLACK * (1 + abs(alone)):
        raise ConfigError(
            f"task {task.name}: {name} gives the first example {together:g} in a batch of {len(outputs)} and {alone:g} alone; "
            "the value of an example must not depend on the batch: sum or average over its own axes only"
        )

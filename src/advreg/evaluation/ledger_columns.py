"""The columns of a ledger's rows: what is recorded of each example after an attack, in any task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from advreg.objectives import has_finite_logits, margin
from advreg.tasks import CLASSES, Task

FAR = 1e30  # finite stand-in for an infinite margin: JSON has no infinity


def columns_of(
    task: Task, y: Tensor, score: Tensor, outputs: Tensor, distance: Tensor, cost: Tensor, *, ids: Tensor
) -> dict[str, Tensor | Sequence[Any]]:
    """Return the columns of verified points, in the order of a row.

    Args:
        task: what an output is worth.
        y: targets ``(B, ...)``.
        score: score of each point ``(B,)``.
        outputs: outputs of the original model ``(B, ...)``.
        distance: distance from the clean input ``(B,)``.
        cost: example-forwards and example-backwards ``(B, 2)``.
        ids: example ids ``(B,)``.

    Returns:
        Columns by name: ``margin`` is the task's nearness to broken; ``score`` is there for tasks with scores between 0 and 1,
        ``corpus`` for tasks with figures of the whole data set.
    """
    label, predicted = _label(task, y), _prediction(task, outputs)
    columns: dict[str, Tensor | Sequence[Any]] = {
        "id": ids,
        "label": label,
        "predicted": predicted,
        "broken": task.is_broken(score),
        "distance": distance,
        "margin": finite_nearness(task, outputs, y),
        "forwards": cost[:, 0],
        "backwards": cost[:, 1],
    }
    if score.dtype is not torch.bool:
        columns["score"] = score.double()
    if task.corpus:
        columns["corpus"] = _corpus(task, outputs, y)
    return columns


def finite_nearness(task: Task, outputs: Tensor, y: Tensor) -> Tensor:
    """Return the nearness to broken ``(B,)``, -1e30 for outputs that are not finite.

    Args:
        task: what an output is worth; the nearness of classes is the margin.
        outputs: outputs ``(B, ...)``.
        y: targets ``(B, ...)``.

    Returns:
        Values ``(B,)``.
    """
    near = margin if task is CLASSES else task.nearness
    return torch.where(has_finite_logits(outputs), near(outputs, y).clamp(-FAR / 2, FAR / 2), -FAR)


def _label(task: Task, y: Tensor) -> Tensor | list[None]:
    """Return the labels where a target is one whole number."""
    whole = y.ndim == 1 and not y.is_floating_point()
    return y if task is CLASSES or whole else [None] * len(y)


def _prediction(task: Task, outputs: Tensor) -> Tensor | list[None]:
    return outputs.argmax(1) if task is CLASSES else [None] * len(outputs)


def _corpus(task: Task, outputs: Tensor, y: Tensor) -> list[dict[str, list[float]]]:
    """Return for each example the rows of the task's figures, each set of rows once."""
    parts = {name: figure.rows(outputs, y).tolist() for name, figure in first_of_each(task).items()}
    return [{name: values[i] for name, values in parts.items()} for i in range(len(y))]


def first_of_each(task: Task) -> dict[str, Any]:
    """Return the figures of a task with different rows, by name; figures that share rows are stored once.

    Args:
        task: the task.

    Returns:
        Figures by the name under which their rows are stored.
    """
    found: dict[Any, str] = {}
    for name, figure in task.corpus.items():
        found.setdefault(figure.rows, name)
    return {name: task.corpus[name] for name in found.values()}

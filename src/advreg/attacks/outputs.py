"""Outputs of models under attack: tensors with a row for each input; logits of the labels' classes in classification."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.attacks.readback import Read, read_later, read_now
from advreg.errors import DataError, ModelError
from advreg.objectives import Objective, cross_entropy, rows_of_probabilities
from advreg.tasks import CLASSES, Task
from advreg.tasks.checks import reject_misfit, reject_objective

IGNORED = -100
"""The label that the cross-entropy of torch ignores."""


def reject_rows(z: object, rows: int) -> None:
    """Raise unless a model's output is a tensor with one row for each input.

    Raises:
        ModelError: another output.
    """
    if not isinstance(z, Tensor) or not z.ndim or len(z) != rows or not z.is_floating_point():
        shape = f"{z.dtype} {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise ModelError(
            f"the model returned {shape} for {rows} inputs; return one tensor of floats with a row for each input: "
            "pack what is in a dict or a list into one"
        )


def reject_logits(z: object, rows: int) -> None:
    """Raise unless a model's output is logits ``(rows, K)`` with K at least 2.

    Raises:
        ModelError: another output.
    """
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != rows:
        shape = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise ModelError(
            f"the model returned {shape} for {rows} inputs; return logits ({rows}, classes){_remedy_of(z, rows)}"
        )
    if z.shape[1] < 2:
        raise ModelError(
            f"the model returned {tuple(z.shape)} for {rows} inputs; return logits of 2 classes or more; {ONE_LOGIT}"
        )


def _remedy_of(z: object, rows: int) -> str:
    """Return what to do with an output that is no logits of a classifier."""
    if not isinstance(z, Tensor):
        return ": advreg.models.wrap_logits(model) takes them out of tuples, dicts and output objects"
    if z.shape == (rows,):
        return f"; {ONE_LOGIT}"
    return "; logits of every pixel: task='pixels'; boxes: task='boxes'" if z.ndim > 2 else ""


ONE_LOGIT = "one logit: advreg.models.one_logit(model); one number: task='number'; a similarity: task='pairs'"
"""Remedy for one output in place of the logits of two classes."""


def reject_classes(y: Tensor, classes: int, *, ignored: bool = False, read: Read = read_now) -> None:
    """Raise unless every label is one of the model's classes, and probabilities have one column for each class.

    Args:
        y: labels ``(B,)`` or ``(B, 1 + R)``, or probabilities ``(B, K)``.
        classes: number of classes of the model.
        ignored: whether the label -100 is allowed.
        read: `read_now`, or `read_later` in a training step.

    Raises:
        DataError: a label out of range, or another number of columns.
    """
    if y.is_floating_point():
        if y.ndim == 2 and y.shape[1] != classes:
            raise DataError(
                f"y holds probabilities of {y.shape[1]} classes, the model has {classes}; give (B, {classes})"
            )
        return
    labels = torch.where(y == IGNORED, 0, y) if ignored else y
    read(torch.stack(torch.aminmax(labels)), lambda ends: _reject_labels(ends, classes))


def _reject_labels(ends: list[float], classes: int) -> None:
    least, largest = ends
    if least < 0 or largest >= classes:
        wrong = least if least < 0 else largest
        raise DataError(f"label {wrong} is out of range: the model has {classes} classes, 0 to {classes - 1}")


def reject_probabilities(z: Tensor, read: Read = read_now) -> None:
    """Raise if outputs ``(B, K)`` are probabilities.

    Args:
        z: outputs ``(B, K)``.
        read: `read_now`, or `read_later` in a training step.

    Raises:
        ModelError: outputs that are non-negative and sum to 1 in every row.
    """
    read(rows_of_probabilities(z).all()[None], _reject_softmax)


def _reject_softmax(found: list[float]) -> None:
    if all(found):
        raise ModelError("the model outputs probabilities; attacks need logits: drop the softmax")


def checked_once(objective: Objective, task: Task = CLASSES) -> Objective:
    """Return the objective of a training attack, which checks logits and labels at its first call only.

    The logits of a single example may sum to 1 by chance, so probabilities are rejected from two examples on.

    Args:
        objective: function of outputs and targets.
        task: what an output is worth.

    Returns:
        The objective; its first call raises `ModelError` for outputs that are not logits, and `DataError` for labels out of
        range; in other tasks, for outputs and targets that do not fit.
    """
    reject_objective(task, objective)
    is_first = True

    def checking(logits: Tensor, y: Tensor) -> Tensor:
        nonlocal is_first
        if is_first:
            is_first = False
            _check_outputs(logits, y, task, ignored=objective is cross_entropy)
        return objective(logits, y)

    return checking


def _check_outputs(logits: Tensor, y: Tensor, task: Task, ignored: bool) -> None:
    if task is not CLASSES:
        reject_rows(logits, len(y))
        reject_misfit(task, logits.detach(), y)
        return
    reject_logits(logits, len(y))
    reject_classes(y, logits.shape[1], ignored=ignored, read=read_later)
    if len(logits) > 1:
        reject_probabilities(logits.detach(), read_later)

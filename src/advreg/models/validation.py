"""Checks of a model before it is evaluated."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advreg.attacks.model import query_model
from advreg.attacks.outputs import ONE_LOGIT, reject_probabilities, reject_rows
from advreg.errors import ModelError
from advreg.models.inference_only import InferenceOnlyModel
from advreg.module_modes import is_exported, training_parts
from advreg.objectives import has_finite_logits
from advreg.plugins import first_line
from advreg.tasks import CLASSES, Task
from advreg.tasks.checks import reject_unfit

_SAMPLE = 8  # rows that are checked; such mistakes show in every row


@torch.no_grad()
def check_model(
    model: nn.Module, x: Tensor, classes: int | None = None, *, task: Task = CLASSES, y: Tensor | None = None
) -> int:
    """Raise for a model that cannot be attacked or evaluated; return its number of classes.

    Args:
        model: float ``(B, C, H, W)`` to logits ``(B, K)``, in eval mode.
        x: some inputs; the model is evaluated on the first few.
        classes: number of classes of the labels, where known.
        task: what an output is worth.
        y: targets of the task, of any number of examples; their shape and values are checked with the outputs.

    Returns:
        The number of classes ``K``; the second dimension of the outputs in other tasks.

    Raises:
        ModelError: train mode, another device, a shape it cannot take, outputs that are not logits.
        DataError: targets that do not fit the outputs.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1)).eval()
        >>> check_model(net, torch.rand(5, 1, 2, 2))
        Traceback (most recent call last):
        ...
        advreg.errors.ModelError: the model outputs probabilities; attacks need logits: drop the softmax
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}; it must be a torch.nn.Module")
    _check_eval(model)
    sample = x[:_SAMPLE]
    _check_place(model, sample)
    try:
        z = query_model(model, sample)
        if any(is_exported(part) for part in model.modules()):
            query_model(model, sample[:1])  # attacks go on with what is left of a batch
    except ModelError:
        raise
    except Exception as cause:
        raise ModelError(_misfit(model, sample, cause)) from cause
    if task is not CLASSES:
        return _check_outputs(z, len(sample), task, y)
    _check_logits(z, len(sample), classes)
    if not isinstance(model, InferenceOnlyModel):  # attacks without gradients work on probabilities too
        reject_probabilities(z)
    return int(z.shape[1])


def _check_outputs(z: Tensor, rows: int, task: Task, y: Tensor | None) -> int:
    reject_rows(z, rows)
    if not bool(has_finite_logits(z).all()):
        raise ModelError("the model returns NaN or infinity on clean inputs; its weights or its input range are wrong")
    if y is not None:
        reject_unfit(task, z, y)
    return int(z.shape[1]) if z.ndim > 1 else 1


def _check_eval(model: nn.Module) -> None:
    for name, remedy in training_parts(model):
        raise ModelError(f"the model is in train mode: {name}; outputs then depend on the batch: {remedy}")


def _check_place(model: nn.Module, x: Tensor) -> None:
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is not None and weight.device != x.device:
        raise ModelError(f"the model is on {weight.device}, the inputs are on {x.device}; move one with .to()")


def _misfit(model: nn.Module, x: Tensor, cause: Exception) -> str:
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    given = tuple(x.shape)
    if convolution is not None and x.dim() == 4 and convolution.in_channels != x.shape[1]:
        wanted, found = convolution.in_channels, x.shape[1]
        return f"the model takes {wanted} channels, inputs {given} have {found}; load it with channels={found}"
    return f"the model cannot take inputs of shape {given} ({first_line(cause)}); give it what it was made for"


def _check_logits(z: object, rows: int, classes: int | None) -> None:
    if not isinstance(z, Tensor):
        remedy = "advreg.models.wrap_logits(model) takes them out of tuples, dicts and output objects"
        raise ModelError(f"the model returns {type(z).__name__}; it must return logits, a tensor (B, K); {remedy}")
    if z.dim() != 2 or z.shape[0] != rows or z.shape[1] < 2:
        remedy = (
            ONE_LOGIT
            if z.shape in ((rows,), (rows, 1))
            else "logits of every pixel: task='pixels'; boxes: task='boxes'"
        )
        raise ModelError(
            f"the model returns shape {tuple(z.shape)} for {rows} inputs; it must return logits (B, K >= 2); {remedy}"
        )
    if classes is not None and z.shape[1] < classes:
        raise ModelError(f"the model has {z.shape[1]} classes, the data has {classes}; load it with classes={classes}")
    if not bool(has_finite_logits(z).all()):
        raise ModelError("the model returns NaN or infinity on clean inputs; its weights or its input range are wrong")

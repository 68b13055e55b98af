"""Verification: the original model, in its own precision and in eval mode, decides whether an example is broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from advreg.attacks.inputs import read_inputs, read_labels, read_targets
from advreg.attacks.model import Model, original, query_model
from advreg.attacks.model import ProxyModel as ProxyModel  # its earlier home
from advreg.attacks.outputs import reject_classes, reject_logits, reject_probabilities, reject_rows
from advreg.errors import DataError, ModelError
from advreg.module_modes import training_parts
from advreg.objectives import are_probabilities, has_finite_logits
from advreg.tasks import CLASSES, Task
from advreg.tasks.checks import reject_misfit
from advreg.tasks.task import invert
from advreg.threat import ThreatModel

_PROBABILITIES: ContextVar[bool] = ContextVar("whether attacks accept probabilities", default=False)

TOLERANCE = 1e-6
"""Tolerance for points made elsewhere: forty times the rounding of a float32 pixel. The attacks here do not need it."""


def outputs_of(model: Model, x: Tensor) -> Tensor:
    """Return the outputs of a model ``(B, ...)`` without gradient and without autocast.

    Args:
        model: maps inputs ``(B, ...)`` to outputs ``(B, ...)``; must be in eval mode.
        x: inputs ``(B, ...)``.

    Returns:
        Outputs in float32 or wider; what a model returns that is no tensor is returned as it is.
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return query_model(model, x)


def logits_of(model: Model, x: Tensor) -> Tensor:
    """Return the logits of a classifier ``(B, K)`` without gradient and without autocast.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: inputs ``(B, ...)``.

    Returns:
        Logits ``(B, K)`` in float32 or wider.

    Raises:
        ModelError: the output is not ``(B, K)``.
    """
    z = outputs_of(model, x)
    reject_logits(z, len(x))
    return z


def require_eval_mode(model: Model) -> None:
    """Raise unless every part of the model is in eval mode, in which BatchNorm and dropout do not depend on the batch.

    Args:
        model: a model; of a fast copy, both it and its original are checked.

    Raises:
        ModelError: some module is in train mode.
    """
    for part in (model, original(model)):
        for name, remedy in training_parts(part) if isinstance(part, nn.Module) else ():
            raise ModelError(f"the model is in train mode: {name}; attacks need eval mode: {remedy}")


def reject_device(model: Model, x: Tensor) -> None:
    """Raise unless the model's weights are on the device of the inputs.

    Args:
        model: a model or a fast copy.
        x: inputs ``(B, ...)``.

    Raises:
        ModelError: another device.
    """
    module = original(model)
    weight = next(module.parameters(), None) if isinstance(module, nn.Module) else None
    if weight is not None and weight.device != x.device:
        raise ModelError(f"the model is on {weight.device}, the inputs are on {x.device}; move one with .to()")


@contextmanager
def accepting_probabilities() -> Iterator[None]:
    """Let attacks run on models that end in a softmax inside the block; a diagnosis measures what the softmax hides.

    Example:
        >>> with accepting_probabilities():
        ...     reject_softmax(nn.Softmax(1), torch.ones(1, 2), torch.ones(1, 2) / 2, (0.0, 1.0))
    """
    token = _PROBABILITIES.set(True)
    try:
        yield
    finally:
        _PROBABILITIES.reset(token)


def reject_softmax(model: Model, x: Tensor, logits: Tensor, box: tuple[float, float]) -> None:
    """Raise if a model outputs probabilities; black boxes with ``score_only`` may.

    Logits of few examples may sum to 1 by chance, so suspicious ones are checked at other points.

    Args:
        model: maps inputs to logits.
        x: clean inputs ``(B, ...)``.
        logits: the model's output for them ``(B, K)``.
        box: lowest and highest valid value of an input.

    Raises:
        ModelError: the outputs are probabilities at all these points.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)).eval()
        >>> x = torch.full((2, 4), 0.5)
        >>> try:
        ...     reject_softmax(model, x, model(x), (0.0, 1.0))
        ... except ModelError as error:
        ...     "probabilities" in str(error)
        True
    """
    if _PROBABILITIES.get() or getattr(original(model), "score_only", False) or not are_probabilities(logits):
        return
    low, high = box
    few = x[:8]
    reject_probabilities(logits_of(model, torch.cat([(few + low) / 2, (few + high) / 2])))


def require_finite(logits: Tensor) -> None:
    """Raise unless the outputs for all clean inputs are finite; a mask may set classes to -inf.

    Args:
        logits: logits of the clean inputs ``(B, K)``.

    Raises:
        ModelError: an output with NaN or infinity.
    """
    bad = int((~has_finite_logits(logits)).sum())
    if bad:
        raise ModelError(
            f"the model outputs NaN or infinity for {bad} of {len(logits)} clean inputs; fix the model first"
        )


def reject_outputs(model: Model, x: Tensor, outputs: Tensor, y: Tensor, threat: ThreatModel, task: Task) -> None:
    """Raise unless the outputs for clean inputs can be scored: logits of the labels' classes, or what another task needs.

    Args:
        model: the queried model.
        x: clean inputs ``(B, ...)``.
        outputs: the model's output for them ``(B, ...)``.
        y: labels or targets ``(B, ...)``.
        threat: norm, eps and box of the adversary.
        task: what the outputs are worth.

    Raises:
        ModelError: outputs that are no tensor with one row for each input, not finite, or probabilities in place of logits.
        DataError: labels or targets that do not fit the outputs.
        ConfigError: a score or an objective of the task that is not one number for each example.
    """
    if task is CLASSES:
        reject_logits(outputs, len(x))
        require_finite(outputs)
        reject_softmax(model, x, outputs, threat.box)
        reject_classes(y, outputs.shape[1])
        return
    reject_rows(outputs, len(x))
    require_finite(outputs)
    reject_misfit(task, outputs, y)


def score_points(
    model: Model,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    threat: ThreatModel,
    task: Task = CLASSES,
    *,
    targeted: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the score of each point on the original model ``(B,)``, and its outputs ``(B, ...)``: one forward.

    Args:
        model: the model, or a fast copy (its original is queried).
        x: clean inputs ``(B, ...)``.
        x_adv: points to verify ``(B, ...)``.
        y: labels or targets ``(B, ...)``; what the adversary wants if ``targeted``.
        threat: norm, eps and box of the adversary.
        task: what the outputs are worth.
        targeted: whether ``y`` holds what the adversary wants.

    Returns:
        Scores ``(B,)``, booleans or in [0, 1]; a point outside the threat model scores 1. And the outputs.

    Raises:
        DataError: a label that the model does not have.

    Example:
        >>> x, x_adv = torch.tensor([[0.6, 0.4]]), torch.tensor([[0.4, 0.6]])
        >>> score_points(nn.Identity(), x, x_adv, torch.tensor([0]), ThreatModel("linf", 0.3))[0].tolist()
        [False]
    """
    outputs = outputs_of(original(model), x_adv)
    if task is CLASSES:
        reject_logits(outputs, len(x_adv))
        reject_classes(y, outputs.shape[1])
    else:
        reject_rows(outputs, len(x_adv))
    score = task.rate(outputs, y)
    score, inside = invert(score) if targeted else score, threat.contains(x_adv, x, TOLERANCE)
    return score | ~inside if score.dtype is torch.bool else score.where(inside, 1.0), outputs


def verify_with_logits(
    model: Model, x: Tensor, x_adv: Tensor, y: Tensor, threat: ThreatModel, targeted: bool = False
) -> tuple[Tensor, Tensor]:
    """Return whether each point is broken ``(B,)``, and the original classifier's logits ``(B, K)``: one forward.

    Args:
        model: the model, or a fast copy (its original is queried).
        x: clean inputs ``(B, ...)``.
        x_adv: points to verify ``(B, ...)``.
        y: labels ``(B,)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary.
        targeted: whether ``y`` holds the classes that the adversary wants.

    Returns:
        Booleans ``(B,)`` and logits ``(B, K)``.

    Raises:
        DataError: a label that the model does not have.

    Example:
        >>> x, x_adv = torch.tensor([[0.6, 0.4]]), torch.tensor([[0.4, 0.6]])
        >>> verify_with_logits(nn.Identity(), x, x_adv, torch.tensor([0]), ThreatModel("linf", 0.3))[0].tolist()
        [True]
    """
    right, logits = score_points(model, x, x_adv, y, threat, targeted=targeted)
    return ~right, logits


def verify(
    model: Model,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    targeted: bool = False,
    task: Task = CLASSES,
) -> Tensor:
    """Return whether ``x_adv`` breaks the model inside the threat model, for each example.

    An example is broken if the largest logit of the original model is not the label's (is the target's, if targeted) or its
    output has NaN, every value is inside the box, and the distance in float64 is within eps (tolerance 1e-6).

    Args:
        model: the model, or a fast copy (its original is queried); must be in eval mode.
        x: clean inputs ``(B, ...)``.
        x_adv: points to verify ``(B, ...)``.
        y: labels ``(B,)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary.
        targeted: whether ``y`` holds the classes that the adversary wants.
        task: what an output is worth; an example is broken where its score is at most the task's ``broken_at``.

    Returns:
        Booleans ``(B,)``.

    Raises:
        ModelError: the model is in train mode or does not return logits.
        DataError: points or labels that do not fit the inputs.

    Example:
        >>> model = nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
        >>> verify(model, x, torch.tensor([[0.45, 0.55]]), y, ThreatModel("linf", 0.2)).tolist()
        [True]
    """
    require_eval_mode(model)
    x = read_inputs(x, threat.box)
    x_adv, y = read_inputs(x_adv, threat.box), read_labels(y, x) if task is CLASSES else read_targets(y, x)
    if x_adv.shape != x.shape:
        raise DataError(f"x_adv is {tuple(x_adv.shape)}, x is {tuple(x.shape)}; give one point for each input")
    reject_device(model, x_adv)
    return task.is_broken(score_points(model, x, x_adv, y, threat, task, targeted=targeted)[0])

"""One query of an attack: outputs, loss and gradient at some points, and what the outputs are worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from advreg.attacks.model import Model, gradient_at, input_dtype, own_leaf, query_model
from advreg.errors import ConfigError
from advreg.objectives import Objective, negate
from advreg.tasks import CLASSES, Task
from advreg.tasks.checks import reject_objective
from advreg.tasks.task import invert


@dataclass(frozen=True)
class QuerySpec:
    """How the model is queried.

    Attributes:
        model: the attacked model, original or fast copy.
        objective: function of outputs and targets to maximise.
        targeted: whether ``y`` holds what the adversary wants; the objective is then minimised.
        eot: number of samples over which outputs, loss and gradient are averaged, for models that are random.
        task: what the outputs are worth.
    """

    model: Model
    objective: Objective
    targeted: bool = False
    eot: int = 1
    task: Task = CLASSES

    def __post_init__(self) -> None:
        require_positive(eot=self.eot)
        reject_objective(self.task, self.objective)

    @cached_property
    def dtype(self) -> torch.dtype | None:
        """Floating type of the model's inputs, determined once instead of at every query."""
        return input_dtype(self.model)

    def loss_at(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the value to maximise, ``(B,)``."""
        return (negate(self.objective) if self.targeted else self.objective)(logits, y)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the score of each output, ``(B,)``: lower is better for the adversary."""
        score = self.task.rate(outputs, y)
        return invert(score) if self.targeted else score

    def is_broken(self, score: Tensor) -> Tensor:
        """Return whether nothing is left to win at these scores, ``(B,)``."""
        return self.task.is_broken(score)

    def fooled(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return whether each output is broken: misclassified (or the target class, if targeted), ``(B,)``."""
        return self.is_broken(self.score(outputs, y))

    def at(self, share: float) -> QuerySpec:
        """Return the spec at this share of an attempt's steps: an objective may change with it by a method ``at``."""
        schedule = getattr(self.objective, "at", None)
        return self if schedule is None else replace(self, objective=schedule(share))


def require_positive(**counts: int) -> None:
    """Raise unless every count is 1 or more; with 0 steps an attack would report every model as robust.

    Args:
        counts: the counts by name.

    Raises:
        ConfigError: a count below 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} is {count}; give 1 or more")


QueryOutputs = tuple[Tensor, Tensor, Tensor]
"""Logits ``(B, K)``, loss ``(B,)`` and gradient ``(B, ...)`` of one query."""


def query(spec: QuerySpec, adv: Tensor, y: Tensor, *, gradient: bool = True) -> QueryOutputs:
    """Query the model at ``adv``: logits, loss, and the gradient of the summed loss.

    Gradients are taken to the input only, so that no weight gets one. Non-finite entries of the gradient become zero.

    Args:
        spec: model, objective and number of samples.
        adv: points ``(B, ...)``.
        y: labels.
        gradient: whether to compute the gradient; otherwise it is zero.

    Returns:
        Logits ``(B, K)``, loss ``(B,)`` and gradient ``(B, ...)``.

    Raises:
        ModelError: the logits do not depend on the input in a way that autograd can follow.

    Example:
        >>> spec = QuerySpec(torch.nn.Identity(), lambda logits, y: logits.sum(1))
        >>> query(spec, torch.tensor([[1.0, 2.0]]), torch.tensor([0]))[2].tolist()
        [[1.0, 1.0]]
    """
    total = _query_once(spec, adv, y, gradient)
    for _ in range(spec.eot - 1):
        total = _add(total, _query_once(spec, adv, y, gradient))
    if spec.eot == 1:
        return total  # without the copies that a mean makes
    logits, loss, grad = total
    return logits / spec.eot, loss / spec.eot, grad / spec.eot


def _query_once(spec: QuerySpec, adv: Tensor, y: Tensor, gradient: bool) -> QueryOutputs:
    with torch.inference_mode(False), torch.set_grad_enabled(gradient):
        point = own_leaf(adv).requires_grad_(gradient)
        z = query_model(spec.model, point, spec.dtype)
        value = spec.loss_at(z, y)
        grad = gradient_at(value, point) if gradient else torch.zeros_like(adv)
    return z.detach(), value.detach(), grad


def _add(a: QueryOutputs, b: QueryOutputs) -> QueryOutputs:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]

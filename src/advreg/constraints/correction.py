"""Correction of broken relations: Newton steps back to each relation along its gradient, in units of the features."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.constraints.rules import FeatureRules
from advreg.feature_limits import FeatureLimits

_ROUNDS = 2
_INSIDE = 1e-6
"""Share by which a step goes beyond the relation, so that rounding does not break it again."""


def correct_relations(rules: FeatureRules, limits: FeatureLimits, eps: Tensor, a: Tensor, x: Tensor) -> Tensor:
    """Return iterates moved toward the relations that they break; exact for one linear relation inside the limits.

    A row at the edge of ``b <= a + 1`` can so follow the edge when only ``b`` was raised. Whole numbers and groups stay.

    Args:
        rules: the rules.
        limits: limits of single features, with norm and scale.
        eps: radii in float64 ``(B,)``.
        a: iterates ``(B, ...)``.
        x: clean inputs ``(B, ...)``.

    Returns:
        Iterates ``(B, ...)``, inside ball and limits.

    Example:
        >>> rules = FeatureRules(relations=("x1 <= x0",))
        >>> limits = FeatureLimits("linf", None, torch.tensor(0.0), torch.tensor(9.0))
        >>> x, a = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 2.0]])
        >>> [round(v, 3) for v in correct_relations(rules, limits, torch.ones(1).double(), a, x)[0].tolist()]
        [1.5, 1.5]
    """
    region = limits.region(x, eps)
    weight = _weights(rules, limits, x)
    point = region.project(a)
    for _ in range(_ROUNDS):
        for number, relation in enumerate(rules.compiled):
            if relation.value is None:  # derived features are recomputed
                point = _newton_step(rules, number, point, weight)
        point = region.project(point)
    return point


def _weights(rules: FeatureRules, limits: FeatureLimits, x: Tensor) -> Tensor:
    """Return the squared unit of each real feature ``(1, F)``: how far it moves to correct a relation."""
    scale = limits.units(x)
    width = (limits.high - limits.low).to(scale).expand_as(scale[0])
    unit = torch.where(torch.isinf(scale), width, scale).expand_as(x[:1]).flatten(1).clone()
    unit[:, [*rules.integer, *(at for group in rules.groups for at in group)]] = 0.0
    return unit.square()


def _newton_step(rules: FeatureRules, number: int, a: Tensor, weight: Tensor) -> Tensor:
    """Return rows moved to where the linearised relation holds."""
    with torch.enable_grad():
        point = a.detach().double().flatten(1).requires_grad_()
        gap = rules.compiled[number].gap(rules.derive(point)).clamp_min(0.0)
        grad = torch.autograd.grad(gap.sum(), point)[0] if gap.requires_grad else torch.zeros_like(point)
    slope = (grad.square() * weight).sum(1)
    length = torch.where((gap > 0) & (slope > 0), gap.detach() * (1 + _INSIDE) / slope, 0.0)
    moved = point.detach() - length[:, None] * weight * grad
    return torch.where(torch.isfinite(moved), moved, point.detach()).view_as(a).to(a.dtype)

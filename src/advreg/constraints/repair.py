"""Repair: the point near an iterate that keeps every rule and is inside the ball, or the clean row.

projection -> whole numbers -> one-hot groups -> the rest of the budget -> derived features -> all checked; rows that fail
retry with their relations corrected, then with half the change, five times, and fall back to the clean row, which keeps the
rules itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.constraints.correction import correct_relations
from advreg.constraints.rules import FeatureRules
from advreg.feature_limits import FeatureLimits
from advreg.norms import broadcast_per_example

_HALVINGS = 5
_WHOLE = 1e-9
"""Slack of a whole step of exactly eps, which rounding must not lose."""


def repair(rules: FeatureRules, limits: FeatureLimits, eps: Tensor, a: Tensor, x: Tensor) -> Tensor:
    """Return for each iterate a point that keeps the rules, inside the ball and the limits.

    Args:
        rules: the rules.
        limits: limits of single features, with norm and scale.
        eps: radii in float64, ``()`` or ``(B,)``.
        a: iterates ``(B, ...)``.
        x: clean inputs ``(B, ...)`` that keep the rules.

    Returns:
        Points ``(B, ...)``.

    Example:
        >>> limits = FeatureLimits("linf", None, torch.tensor(0.0), torch.tensor(9.0))
        >>> x = torch.tensor([[3.0, 1.0]])
        >>> repair(FeatureRules(integer=(0,)), limits, torch.tensor(1.5).double(), x + 1.4, x).tolist()
        [[4.0, 2.4000000953674316]]
    """
    return repair_or_fall_back(rules, limits, eps, a, x)[0]


def repair_or_fall_back(
    rules: FeatureRules, limits: FeatureLimits, eps: Tensor, a: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the points of `repair`, and which rows fell back to the clean row after all retries.

    Args:
        rules: the rules.
        limits: limits of single features, with norm and scale.
        eps: radii in float64, ``()`` or ``(B,)``.
        a: iterates ``(B, ...)``.
        x: clean inputs ``(B, ...)`` that keep the rules.

    Returns:
        Points ``(B, ...)`` and booleans ``(B,)``.
    """
    result, eps = x.clone(), eps.expand(len(x))
    rows = torch.arange(len(x), device=x.device)
    for halvings in range(-1 if rules.relations else 0, _HALVINGS + 1):
        near, target = x[rows], a[rows]
        if halvings >= 0 and rules.relations:
            target = correct_relations(rules, limits, eps[rows], near + (target - near) * 0.5**halvings, near)
        elif halvings > 0:
            target = near + (target - near) * 0.5**halvings
        point = _snap(rules, limits, eps[rows], target, near, inward=halvings > 0)
        valid = rules.kept(point) & are_allowed(limits, eps[rows], point, near)
        result[rows[valid]] = point[valid]
        rows = rows[~valid]
        if not len(rows):
            break
    fell_back = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    fell_back[rows] = True
    return result, fell_back


def are_allowed(limits: FeatureLimits, eps: Tensor, a: Tensor, x: Tensor) -> Tensor:
    """Return whether each point is within its limits and within eps of ``x``, in float64, ``(B,)``.

    Args:
        limits: limits of single features.
        eps: radii ``(B,)``.
        a: points ``(B, ...)``.
        x: clean inputs ``(B, ...)``.

    Returns:
        Booleans ``(B,)``.
    """
    return limits.are_inside(a, x, 0.0) & (limits.distance(a, x) <= eps * (1 + _WHOLE))


def _snap(rules: FeatureRules, limits: FeatureLimits, eps: Tensor, a: Tensor, x: Tensor, *, inward: bool) -> Tensor:
    """Return the projection with whole numbers, one-hot groups and derived features; it may still break a relation."""
    point = limits.region(x, eps).project(a)
    moved = _whole(rules, limits, eps, point, x, inward=inward)
    moved = _one_hot(rules, limits, eps, moved, x)
    return rules.derive(_spend_rest(rules, limits, eps, moved, x))


def _whole(rules: FeatureRules, limits: FeatureLimits, eps: Tensor, a: Tensor, x: Tensor, *, inward: bool) -> Tensor:
    """Round whole numbers: to the nearest within reach; toward ``x`` if ``inward``, or if the row leaves the ball."""
    if not rules.integer:
        return a
    at = list(rules.integer)
    low, high = (end.flatten(1)[:, at] for end in limits.bounds(x))
    clean, flat = x.flatten(1)[:, at], a.flatten(1)[:, at]
    reach = broadcast_per_example(eps, x).double() * limits.units(x)
    reach = torch.where(limits.units(x) == torch.inf, torch.inf, reach).expand(x.shape).flatten(1)[:, at]
    reach = (reach + _WHOLE).floor().to(x.dtype)
    low, high = low.ceil().maximum(clean - reach), high.floor().minimum(clean + reach)
    truncated = clean + (flat - clean).trunc()
    nearest = truncated if inward else flat.round()
    point = _with(a, at, nearest.maximum(low).minimum(high))
    beyond = limits.distance(point, x) > eps * (1 + _WHOLE)
    if limits.norm == "linf" or not bool(beyond.any()):
        return point
    return torch.where(broadcast_per_example(beyond, x), _with(a, at, truncated.maximum(low).minimum(high)), point)


def _one_hot(rules: FeatureRules, limits: FeatureLimits, eps: Tensor, a: Tensor, x: Tensor) -> Tensor:
    """Set each group to its largest member, or back to the clean one where that alone costs more than eps."""
    point = a
    for group in rules.groups:
        at = list(group)
        chosen = torch.nn.functional.one_hot(a.flatten(1)[:, at].argmax(1), len(at)).to(x.dtype)
        alone = _with(x, at, chosen)
        cheap = are_allowed(limits, eps, alone, x)
        point = _with(point, at, torch.where(cheap[:, None], chosen, x.flatten(1)[:, at]))
    return point


def _spend_rest(rules: FeatureRules, limits: FeatureLimits, eps: Tensor, a: Tensor, x: Tensor) -> Tensor:
    """Shrink the changes of the other features to what whole numbers and groups leave of eps, in l2 and l1."""
    discrete = [*rules.integer, *(at for group in rules.groups for at in group)]
    if limits.norm == "linf" or not discrete:
        return a
    fixed = _with(x, discrete, a.flatten(1)[:, discrete])
    order = 2 if limits.norm == "l2" else 1
    spent, total = limits.distance(fixed, x) ** order, limits.distance(a, x) ** order
    rest = (total - spent).clamp_min(1e-300)
    share = ((eps**order - spent).clamp_min(0.0) / rest) ** (1 / order) * (1 - _WHOLE)
    over = (total > eps**order) & (spent <= eps**order * (1 + _WHOLE))
    shrunk = fixed + (a - fixed) * broadcast_per_example(share.to(x.dtype), x)
    free = torch.isinf(limits.units(x))  # what is not counted keeps its change
    return torch.where(broadcast_per_example(over, x) & ~free, shrunk, a)


def _with(a: Tensor, at: list[int], values: Tensor) -> Tensor:
    """Return a copy of ``a (B, ...)`` with these features replaced by ``values (B, len(at))``."""
    flat = a.flatten(1).clone()
    flat[:, at] = values
    return flat.view_as(a)

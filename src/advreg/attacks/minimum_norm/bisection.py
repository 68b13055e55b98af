"""Bisection along the line from a clean input to its nearest misclassified point, and distances to the boundary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from advreg._deprecation import renamed_options
from advreg.attacks.inputs import read_batch
from advreg.attacks.minimum_norm.l0 import Ball, SparseThreat
from advreg.attacks.minimum_norm.result import MinimalResult
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.verification import require_eval_mode, verify_with_logits
from advreg.eps_and_box import eps_like
from advreg.errors import ConfigError, ThreatError
from advreg.objectives import margin, replace_nan
from advreg.threat import Norm, ThreatModel, broadcast_per_example, whole_box


@renamed_options(bisections="binary_search_steps")
def minimum_distance(
    attack: Callable[..., MinimalResult],
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: Norm | Literal["l0"],
    *,
    box: tuple[float, float] = (0.0, 1.0),
    binary_search_steps: int = 10,
    targeted: bool = False,
    **options: Any,
) -> MinimalResult:
    """Measure the distance of each example to the decision boundary: a minimum-norm attack without eps, then bisection.

    The share of examples with ``min_distance > eps`` is the robust accuracy under this attack at eps, so one run gives the
    whole robustness curve.

    Args:
        attack: a minimum-norm attack: `fab`, `fmn`, `ddn`, `deepfool`, `carlini_wagner`, or one of the same signature.
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode.
        x: clean inputs ``(B, ...)`` in the box.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        norm: norm of the distance: linf, l2, l1, or l0 for `fmn`.
        box: lowest and highest valid value of an input.
        binary_search_steps: bisections of each example after the attack, one forward each; none for l0. An attack's own
            option of this name is bound by ``functools.partial``.
        targeted: whether ``y`` holds the classes that the adversary wants.
        options: further options of the attack.

    Returns:
        A `MinimalResult`; its ``min_distance`` is 0 for a clean error and inf if no point was found.

    Raises:
        ModelError, DataError, ThreatError, ConfigError: as the attack raises them.

    Example:
        >>> from advreg.attacks.minimum_norm import fab
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> x, y = torch.tensor([[0.6, 0.4], [0.4, 0.6]]), torch.tensor([0, 0])
        >>> [round(d, 3) for d in minimum_distance(fab, model, x, y, "linf").min_distance.tolist()]
        [0.1, 0.0]
    """
    ball = SparseThreat(0, box) if norm == "l0" else ThreatModel(norm, 0.0, box)
    result = attack(model, x, y, ball, targeted=targeted, **options)
    if norm == "l0" or not binary_search_steps:
        return result
    return refine_by_bisection(result, model, x, y, ball, binary_search_steps=binary_search_steps, targeted=targeted)


@renamed_options(steps="binary_search_steps")
def refine_by_bisection(
    found: MinimalResult,
    model: Model,
    x: Tensor,
    y: Tensor,
    ball: Ball,
    *,
    binary_search_steps: int = 10,
    targeted: bool = False,
) -> MinimalResult:
    """Refine the result of a minimum-norm attack by bisection of the line from ``x`` to the nearest misclassified point.

    Examples without a point, or with one within eps, are unchanged; each other example costs one forward a bisection.

    Args:
        found: the result of a minimum-norm attack.
        model: the attacked model; must be in eval mode.
        x: the clean inputs ``(B, ...)`` that were attacked.
        y: their labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        ball: the threat model of the attack, in linf, l2 or l1.
        binary_search_steps: number of bisections; each halves the remaining interval.
        targeted: whether ``y`` holds the classes that the adversary wants.

    Returns:
        A `MinimalResult` with no larger distance; points that came within eps are broken.

    Raises:
        ThreatError: l0, in which all points of a line are equally far.
        ConfigError: ``binary_search_steps`` below 0.
        ModelError: train mode, or wrong output.

    Example:
        >>> from advreg.attacks.minimum_norm import deepfool
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> x, y, threat = torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ThreatModel("linf", 0.0)
        >>> found = deepfool(model, x, y, threat)
        >>> bool(refine_by_bisection(found, model, x, y, threat).min_distance < found.min_distance)
        True
    """
    if ball.norm == "l0":
        raise ThreatError("the threat is l0, in which every point of a line is equally far; give linf, l2 or l1")
    if binary_search_steps < 0:
        raise ConfigError(f"binary_search_steps is {binary_search_steps}; give 0 or more")
    require_eval_mode(model)
    model = bind_dtype(model, x)
    x, y = read_batch(x, y, ball)
    x = x.detach().to(found.closest_adv.dtype)
    eps = eps_like(ball.eps, x, torch.float64).expand(len(x))
    rows = (found.found & (found.min_distance > eps)).nonzero()[:, 0]
    if not len(rows) or not binary_search_steps:
        return found
    line = found.closest_adv[rows], x[rows], y[rows]
    point, loss = _bisect(model, line, ball, steps=binary_search_steps, targeted=targeted)
    cost = found.cost.clone()
    cost[rows, 0] += binary_search_steps
    return _with_points(replace(found, cost=cost), rows, point, loss, x=x, ball=ball, eps=eps)


def _bisect(
    model: Model, line: tuple[Tensor, Tensor, Tensor], ball: Ball, *, steps: int, targeted: bool
) -> tuple[Tensor, Tensor]:
    """Return the misclassified points nearest to the boundary, and the margin there (NaN if no bisection found one).

    ``line`` holds the misclassified ends ``(B, ...)``, the clean ends ``(B, ...)`` and the labels.
    """
    beyond, x, y = line
    correct = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    fooling = torch.ones_like(correct)
    point, loss = beyond, torch.full_like(correct, torch.nan)
    for _ in range(steps):
        middle = (correct + fooling) / 2
        tried = (x + broadcast_per_example(middle, x) * (beyond - x)).clamp(*ball.box)
        fools, logits = verify_with_logits(model, x, tried, y, whole_box(ball.box), targeted)
        lead = replace_nan(-margin(logits, y) if targeted else margin(logits, y))
        point = torch.where(broadcast_per_example(fools, x), tried, point)
        loss = torch.where(fools, lead.to(loss.dtype), loss)
        correct, fooling = torch.where(fools, correct, middle), torch.where(fools, middle, fooling)
    return point, loss


def _with_points(
    found: MinimalResult, rows: Tensor, point: Tensor, loss: Tensor, *, x: Tensor, ball: Ball, eps: Tensor
) -> MinimalResult:
    """Return the result with these points where they are nearer; points within eps become broken."""
    distance = ball.select(rows).distance(point, x[rows])
    nearer = distance < found.min_distance[rows]
    rows, point = rows[nearer], point[nearer]
    loss, distance = loss[nearer], distance[nearer]
    names = ("x_adv", "broken", "distance", "loss", "closest_adv", "min_distance")
    merged = {name: getattr(found, name).clone() for name in names}
    merged["closest_adv"][rows] = point
    merged["min_distance"][rows] = distance
    inside = distance <= eps[rows]
    merged["x_adv"][rows[inside]] = point[inside]
    merged["broken"][rows[inside]] = True
    merged["distance"][rows[inside]] = distance[inside].to(found.distance.dtype)
    merged["loss"][rows[inside]] = loss[inside]
    return replace(found, **merged)

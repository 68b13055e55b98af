"""From a point beyond the boundary back to it, and the whole way for a robustness curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from advreg.attacks.inputs import read_batch
from advreg.attacks.minimum_norm.l0 import Ball, SparseThreat
from advreg.attacks.minimum_norm.result import MinimalResult
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.verification import require_eval_mode, verify_with_logits
from advreg.errors import ConfigError, ThreatError
from advreg.objectives import margin, ranked
from advreg.threat import Norm, ThreatModel, broadcast_per_example


def minimum_distance(
    attack: Callable[..., MinimalResult],
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: Norm | Literal["l0"],
    *,
    box: tuple[float, float] = (0.0, 1.0),
    bisections: int = 10,
    targeted: bool = False,
    **options: Any,
) -> MinimalResult:
    """Measure how far each example is from the boundary: a minimum-norm attack without a radius, then bisection.

    ``minimal`` of the result is the distance, 0 for a clean error and inf where nothing was found; the share of examples
    with ``minimal > eps`` is the attack's robust accuracy at eps, so one run gives the whole robustness curve.

    Args:
        attack: `fab`, `fmn`, `ddn`, `deepfool`, `carlini`, or another of their kind.
        model, x, y, targeted: as for the attack.
        norm: in which distance is measured: linf, l2, l1, or l0 for `fmn`.
        box: lowest and highest valid value of an input.
        bisections: forwards spent on refining each example; none for l0.
        options: for the attack.

    Returns:
        A `MinimalResult`.

    Raises:
        ModelError, DataError, ThreatError, ConfigError: as the attack does.

    Example:
        >>> from advreg.attacks.minimum_norm import fab
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> found = nearest(fab, model, torch.tensor([[0.6, 0.4], [0.4, 0.6]]), torch.tensor([0, 0]), "linf")
        >>> [round(d, 3) for d in found.minimal.tolist()]
        [0.1, 0.0]
    """
    ball = SparseThreat(0, box) if norm == "l0" else ThreatModel(norm, 0.0, box)
    found = attack(model, x, y, ball, targeted=targeted, **options)
    if norm == "l0" or not bisections:
        return found
    return refine_by_bisection(found, model, x, y, ball, steps=bisections, targeted=targeted)


def refine_by_bisection(
    found: MinimalResult,
    model: Model,
    x: Tensor,
    y: Tensor,
    ball: Ball,
    *,
    steps: int = 10,
    targeted: bool = False,
) -> MinimalResult:
    """Refine what was found: bisect the way from ``x`` to the nearest point, asking the original model.

    Examples without a point, or with one within eps already, are left alone; the others cost a forward for each step.

    Args:
        found: what a minimum-norm attack returned.
        model, x, y, ball, targeted: as they were for the attack.
        steps: bisections; each halves what is left.

    Returns:
        A `MinimalResult` that is nowhere farther; what has come within eps is broken now.

    Raises:
        ThreatError: l0, in which all points of the way are equally far.
        ModelError: train mode, wrong output.

    Example:
        >>> from advreg.attacks.minimum_norm import deepfool
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> x, y, threat = torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ThreatModel("linf", 0.0)
        >>> found = deepfool(model, x, y, threat)
        >>> bool(bisected(found, model, x, y, threat).minimal < found.minimal)
        True
    """
    if ball.norm == "l0":
        raise ThreatError("the threat is l0, where every point of the way is equally far; bisect linf, l2 or l1")
    if steps < 0:
        raise ConfigError(f"steps is {steps}; give 0 or more bisections")
    require_eval_mode(model)
    model = bind_dtype(model, x)
    x, y = read_batch(x, y, ball)
    x = x.detach().to(found.nearest.dtype)
    eps = torch.as_tensor(ball.eps, dtype=torch.float64, device=x.device).expand(len(x))
    rows = (found.found & (found.minimal > eps)).nonzero()[:, 0]
    if not len(rows) or not steps:
        return found
    point, loss = _boundary(found.nearest[rows], model, x[rows], y[rows], ball, steps, targeted)
    cost = found.cost.clone()
    cost[rows, 0] += steps
    return _with_points(replace(found, cost=cost), rows, point, loss, x, ball, eps)


def _boundary(
    beyond: Tensor, model: Model, x: Tensor, y: Tensor, ball: Ball, steps: int, targeted: bool
) -> tuple[Tensor, Tensor]:
    """Return the last points of the way that fool, and the margin there (nan where no bisection fooled)."""
    anywhere = ThreatModel("linf", ball.width, ball.box)
    right, fooling = torch.zeros(len(x), dtype=x.dtype, device=x.device), torch.ones_like(x.flatten(1)[:, 0])
    point, loss = beyond, torch.full_like(right, torch.nan)
    for _ in range(steps):
        middle = (right + fooling) / 2
        tried = (x + broadcast_per_example(middle, x) * (beyond - x)).clamp(*ball.box)
        fools, logits = verify_with_logits(model, x, tried, y, anywhere, targeted)
        lead = ranked(-margin(logits, y) if targeted else margin(logits, y))
        point = torch.where(broadcast_per_example(fools, x), tried, point)
        loss = torch.where(fools, lead.to(loss.dtype), loss)
        right, fooling = torch.where(fools, right, middle), torch.where(fools, middle, fooling)
    return point, loss


def _with_points(
    found: MinimalResult, rows: Tensor, point: Tensor, loss: Tensor, x: Tensor, ball: Ball, eps: Tensor
) -> MinimalResult:
    """Return the result with these points where they are nearer, and as broken what they bring within eps."""
    here = ball.select(rows).distance(point, x[rows])
    nearer = here < found.minimal[rows]
    rows, point, loss, here = rows[nearer], point[nearer], loss[nearer], here[nearer]
    nearest_, minimal = found.nearest.clone(), found.minimal.clone()
    nearest_[rows], minimal[rows] = point, here
    inside = here <= eps[rows]
    won = rows[inside]
    x_adv, broken, distance, losses = (t.clone() for t in (found.x_adv, found.broken, found.distance, found.loss))
    x_adv[won], broken[won] = point[inside], True
    distance[won], losses[won] = here[inside].to(distance.dtype), loss[inside]
    return replace(found, x_adv=x_adv, broken=broken, distance=distance, loss=losses, nearest=nearest_, minimal=minimal)

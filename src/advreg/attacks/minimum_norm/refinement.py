"""Distances made smaller by bisecting each example's own radius: an attack with a radius has the last word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from advreg.attacks.cosine_pgd import cosine_pgd
from advreg.attacks.inputs import read_batch, read_ids
from advreg.attacks.minimum_norm.result import MinimalResult
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.result import AttackResult
from advreg.errors import ConfigError
from advreg.threat import ThreatModel


def refine_by_radius(
    found: MinimalResult,
    model: Model,
    x: Tensor,
    y: Tensor,
    ball: ThreatModel,
    *,
    rounds: int = 4,
    attack: Callable[..., AttackResult] = cosine_pgd,
    trust: float = 0.9,
    ids: Tensor | None = None,
    seed: int = 0,
) -> MinimalResult:
    """Try to break each example inside a radius of its own, a little below the distance known, and bisect.

    A success brings the distance down to the point found, a failure lets the next radius be larger:
    ``radius <- max((failed + distance) / 2, trust distance)``.

    Args:
        found: what a minimum-norm attack returned, judged by the original model.
        model, x, y: as they were for that attack.
        ball: norm and box; its radius is not used.
        rounds: attacks on each example for which a point is known.
        attack: an attack with a radius, such as `cosine_pgd`, `shrinking_pgd` or `apgd`.
        trust: no radius is below this share of the distance known; lower where the distances found so far may be far too large.
        ids: example ids ``(B,)`` for its random draws.
        seed: seed of its random draws.

    Returns:
        A `MinimalResult` that is nowhere farther.

    Raises:
        ConfigError: rounds below 0, or trust outside [0, 1).

    Example:
        >>> from advreg.attacks.minimum_norm import deepfool
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> x, y, ball = torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ThreatModel("linf", 0.0)
        >>> found = deepfool(model, x, y, ball)
        >>> bool(tightened(found, model, x, y, ball).minimal <= found.minimal)
        True
    """
    if rounds < 0:
        raise ConfigError(f"rounds is {rounds}; give 0 or more")
    if not 0 <= trust < 1:
        raise ConfigError(f"trust is {trust}; give a share of the distance, at least 0 and below 1, such as 0.9")
    model = bind_dtype(model, x)
    x, y = read_batch(x, y, ball)
    x = x.to(found.nearest.dtype)
    ids = read_ids(ids, x)
    rows = (found.found & (found.minimal > 0)).nonzero()[:, 0]
    failed = torch.zeros(len(rows), dtype=torch.float64, device=x.device)
    for k in range(rounds if len(rows) else 0):
        known = found.minimal[rows]
        radius = torch.maximum((failed + known) / 2, trust * known)
        tried = attack(model, x[rows], y[rows], ball.with_eps(radius), ids=ids[rows], seed=seed + k)
        found = _with(found, tried, rows, ball.distance(tried.x_adv, x[rows]))
        failed = torch.where(tried.broken, failed, radius)
    return found


def _with(found: MinimalResult, tried: AttackResult, rows: Tensor, distance: Tensor) -> MinimalResult:
    won = tried.broken & (distance < found.minimal[rows])
    nearest, minimal, cost = found.nearest.clone(), found.minimal.clone(), found.cost.clone()
    nearest[rows[won]], minimal[rows[won]] = tried.x_adv[won], distance[won]
    cost[rows] += tried.cost
    return replace(found, nearest=nearest, minimal=minimal, cost=cost)

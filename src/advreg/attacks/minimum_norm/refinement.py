"""Refinement of minimum distances by an attack inside a radius of each example's own, which is bisected."""

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
    targeted: bool = False,
    ids: Tensor | None = None,
    seed: int = 0,
) -> MinimalResult:
    """Refine the result of a minimum-norm attack: attack each example inside a radius a little below its known distance.

    A success lowers the distance to that of the point found; a failure raises the next radius: ``radius <- max((failed +
    distance) / 2, trust * distance)``.

    Args:
        found: the result of a minimum-norm attack.
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode.
        x: the clean inputs ``(B, ...)`` that were attacked.
        y: their labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        ball: norm and box; its eps is not used.
        rounds: attacks on each example with a known misclassified point.
        attack: an attack inside a given eps, such as `cosine_pgd`, `shrinking_pgd` or `apgd`.
        trust: smallest radius, as a share of the known distance; lower it where known distances may be far too large.
        targeted: whether ``y`` holds the classes that the adversary wants.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the attack's random draws.

    Returns:
        A `MinimalResult` with no larger distance.

    Raises:
        ConfigError: ``rounds`` below 0, or ``trust`` outside [0, 1).
        ModelError, DataError: a model or inputs that do not fit.

    Example:
        >>> from advreg.attacks.minimum_norm import deepfool
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> x, y, ball = torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ThreatModel("linf", 0.0)
        >>> found = deepfool(model, x, y, ball)
        >>> bool(refine_by_radius(found, model, x, y, ball).min_distance <= found.min_distance)
        True
    """
    if rounds < 0:
        raise ConfigError(f"rounds is {rounds}; give 0 or more")
    if not 0 <= trust < 1:
        raise ConfigError(f"trust is {trust}; give a share of the distance, at least 0 and below 1, such as 0.9")
    model = bind_dtype(model, x)
    x, y = read_batch(x, y, ball)
    x = x.to(found.closest_adv.dtype)
    ids = read_ids(ids, x)
    options = {"targeted": True} if targeted else {}
    rows = (found.found & (found.min_distance > 0)).nonzero()[:, 0]
    failed = torch.zeros(len(rows), dtype=torch.float64, device=x.device)
    for k in range(rounds if len(rows) else 0):
        known = found.min_distance[rows]
        radius = torch.maximum((failed + known) / 2, trust * known)
        tried = attack(model, x[rows], y[rows], ball.with_eps(radius), ids=ids[rows], seed=seed + k, **options)
        found = _merge(found, tried, rows, ball.distance(tried.x_adv, x[rows]))
        failed = torch.where(tried.broken, failed, radius)
    return found


def _merge(found: MinimalResult, tried: AttackResult, rows: Tensor, distance: Tensor) -> MinimalResult:
    """Return the result with the broken points of an attack on these rows where they are nearer; costs are added."""
    nearer = tried.broken & (distance < found.min_distance[rows])
    closest_adv, min_distance = found.closest_adv.clone(), found.min_distance.clone()
    cost = found.cost.clone()
    closest_adv[rows[nearer]] = tried.x_adv[nearer]
    min_distance[rows[nearer]] = distance[nearer]
    cost[rows] += tried.cost
    return replace(found, closest_adv=closest_adv, min_distance=min_distance, cost=cost)

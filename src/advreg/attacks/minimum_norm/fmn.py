"""FMN: a gradient step projected onto a ball with a radius that follows the boundary, in linf, l2, l1 and l0."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advreg.attacks.minimum_norm.ddn import cosine
from advreg.attacks.minimum_norm.l0 import Ball, SparseThreat, box_diameter, dual, norm_like, with_radius
from advreg.attacks.minimum_norm.linearisation import linearise_objective
from advreg.attacks.minimum_norm.result import MinimalResult
from advreg.attacks.minimum_norm.search import SearchConfig, search_minimum_norm
from advreg.attacks.minimum_norm.state import MinimumNormState, Rule
from advreg.attacks.model import Model, bind_dtype
from advreg.objectives import Objective, margin
from advreg.threat import ThreatModel, broadcast_per_example

_STEP = {"linf": 10.0, "l2": 1.0, "l1": 1.0, "l0": 1.0}
"""First steps as shares of the box's width."""


def fmn(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Ball,
    *,
    steps: int = 100,
    restarts: int = 1,
    gamma: float = 0.05,
    step_size: float | None = None,
    objective: Objective = margin,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> MinimalResult:
    """Attack by the fast minimum-norm method: ``x_{k+1} = project(x_k + a g)`` onto a ball with an adaptive radius.

    g is the gradient divided by its l2 length. Until a point is misclassified, the radius is the present distance plus the
    first-order estimate of the rest, ``|f| / ||grad f||_dual``, increased by the share gamma, and a is at least long enough
    to reach it, because short steps never do on a flat network. Afterwards the radius is multiplied by ``1 - gamma`` after
    a misclassified iterate (and never exceeds the best distance) and by ``1 + gamma`` after a correct one. Both a and gamma
    fall along a cosine. A step costs one forward and one backward.

    If no attempt finds a point, an ascent from a random point of the box (at most 21 forwards and 20 backwards) searches
    for one; ten forwards on the line back and one more attempt bring it near.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: a `ThreatModel`, or a `SparseThreat` for the number of changed values; with eps 0 every search runs to the
            end.
        steps: iterations of one attempt.
        restarts: number of rounds; all but the first start at a random point nearer than half the best distance.
        gamma: first share by which the radius changes.
        step_size: l2 length of the first step in the units of the input; 10 widths of the box in linf and 1 in the others
            if None.
        objective: function of logits and labels to maximise; 0 at the decision boundary, such as the margin.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether an example within eps leaves at once, or the search for a nearer point goes on.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random starts.
        batch_size: number of examples attacked at a time.

    Returns:
        A `MinimalResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ConfigError: ``steps`` or ``restarts`` below 1.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> fmn(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), SparseThreat(0)).min_distance.tolist()
        [1.0]

    Reference: Pintor et al., "Fast minimum-norm adversarial attacks through adaptive norm constraints", NeurIPS 2021,
    arXiv:2102.12827.
    """
    if step_size is None:
        step_size = _STEP[threat.norm] * threat.width
    model = bind_dtype(model, x)
    linearise, rule = linearise_objective(model, objective, targeted=targeted), fmn_rule(steps, gamma, step_size)
    climb = linearise_objective(model, margin, targeted=targeted)
    plan = SearchConfig(model, [linearise], rule, steps, restarts, targeted, early_stop, last_resort=climb, seed=seed)
    return search_minimum_norm(plan, x, y, threat, ids=ids, batch_size=batch_size)


def fmn_rule(steps: int, gamma: float, step_size: float) -> Rule:
    """Return FMN's step.

    Args:
        steps: iterations of one attempt.
        gamma: first share by which the radius changes.
        step_size: l2 length of the first step.

    Returns:
        The rule of `advreg.attacks.minimum_norm.search.SearchConfig`.
    """

    def rule(state: MinimumNormState, k: int) -> MinimumNormState:
        share, step = cosine(gamma, gamma / 50, k, steps), cosine(step_size, step_size / 1000, k, steps)
        unit = ThreatModel("l2", 0.0, state.ball.box).steepest(state.grad)
        if isinstance(state.ball, SparseThreat):
            radius, size = _next_count(state, share), torch.full_like(state.value, step)
        else:
            radius = _next_radius(state, share)
            size = _step_length(state, unit, radius, step)
        moved = state.adv + broadcast_per_example(size, state.x) * unit
        adv = with_radius(state.ball, radius, state.x).project(moved, state.x)
        return replace(state, adv=adv, memory={"radius": radius})

    return rule


def _step_length(state: MinimumNormState, unit: Tensor, radius: Tensor, step: float) -> Tensor:
    """Return the length of a step; long enough to reach the radius while no misclassified point is known."""
    way = (radius.minimum(box_diameter(state.ball, state.x)) - state.distance).clamp_min(0.0).to(unit.dtype)
    needed = way / norm_like(state.ball, unit).flatten().clamp_min(torch.finfo(unit.dtype).tiny)
    unknown = ~torch.isfinite(state.best_distance)
    return torch.where(unknown, needed.clamp_min(step), step)


def _last_radius(state: MinimumNormState, first: float) -> Tensor:
    """Return the radius of the last step; at the first step the distance of a misclassified start, else ``first``."""
    return state.memory.get("radius", torch.where(state.fooled, state.distance, first))


def _next_radius(state: MinimumNormState, share: float) -> Tensor:
    before, unknown = _last_radius(state, torch.inf), ~torch.isfinite(state.best_distance)
    estimate = state.distance + (state.value.abs() / dual(state.ball, state.grad).clamp_min(1e-30)).double()
    known = torch.where(unknown, estimate, before)
    outside = known * (1 + share)  # beyond the estimate, which would only be approached
    return torch.where(state.fooled, (before * (1 - share)).minimum(state.best_distance), outside)


def _next_count(state: MinimumNormState, share: float) -> Tensor:
    """Return the next number of values that may change: at least one fewer, or one more."""
    before = _last_radius(state, 0.0)
    fewer = (before - 1).minimum((before * (1 - share)).floor()).minimum(state.best_distance)
    more = (before + 1).maximum((before * (1 + share)).floor())
    return torch.where(state.fooled, fewer, more).clamp_min(1.0)

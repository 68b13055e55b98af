"""FMN: a gradient step projected onto a ball whose radius follows the boundary, in linf, l2, l1 and l0."""

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
    """Attack by the fast minimum-norm method: ``x_{k+1} = project(x_k + a g)`` onto a ball of changing radius.

    g is the gradient divided by its l2 length. Until a point fools the model the radius is the distance travelled plus the
    first-order way left, ``|f| / ||grad f||_dual``, and a little more, and a is at least long enough to get there: on a flat
    network a short step never does. From then on the radius is multiplied by ``1 - gamma`` after an iterate that fools (and
    is never larger than the best distance) and by ``1 + gamma`` after one that does not. Both a and gamma fall along a
    cosine. One forward and one backward a step.

    Where no attempt found a point, an ascent from a random point of the box, at most 21 forwards and 20 backwards, looks for
    one; ten forwards on the line back and one more attempt bring it near.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``; eval mode. A fast target proposes, its original judges.
        x: clean inputs ``(B, ...)`` in the threat's box.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the wanted classes if targeted.
        threat: a `ThreatModel`, or a `SparseThreat` for the number of values changed; with eps 0 all search to the end.
        steps: iterations of one attempt.
        restarts: rounds; all but the first begin at a random point nearer than half the best distance.
        gamma: first share by which the radius changes.
        step_size: l2 length of the first step, in the units of the input; None: 10 widths of the box in linf, 1 in the others.
        objective: what to maximise; 0 at the boundary, such as the margin.
        targeted: whether ``y`` is the class the adversary wants.
        early_stop: whether an example within eps leaves at once, or goes on for a nearer point.
        ids: example ids ``(B,)``: an example's draws depend on its id and the seed only.
        seed: seed of the random starts.
        batch_size: examples under attack at a time.

    Returns:
        A `MinimalResult`, judged by the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> fmn(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), Sparse(0)).minimal.tolist()
        [1.0]

    Reference: Pintor et al., "Fast minimum-norm adversarial attacks through adaptive norm constraints", NeurIPS 2021.
    """
    if step_size is None:
        step_size = _STEP[threat.norm] * threat.width
    model = bind_dtype(model, x)
    look, rule = linearise_objective(model, objective, targeted=targeted), fmn_rule(steps, gamma, step_size)
    climb = linearise_objective(model, margin, targeted=targeted)
    plan = SearchConfig(model, [look], rule, steps, restarts, targeted, early_stop, last_resort=climb, seed=seed)
    return search_minimum_norm(plan, x, y, threat, ids=ids, batch_size=batch_size)


def fmn_rule(steps: int, gamma: float, step_size: float) -> Rule:
    """Return FMN's step."""

    def rule(state: MinimumNormState, k: int) -> MinimumNormState:
        share, step = cosine(gamma, gamma / 50, k, steps), cosine(step_size, step_size / 1000, k, steps)
        unit = ThreatModel("l2", 0.0, state.ball.box).steepest(state.grad)
        if isinstance(state.ball, SparseThreat):
            radius, size = _next_count(state, share), torch.full_like(state.value, step)
        else:
            radius = _next_radius(state, share)
            size = _long_enough(state, unit, radius, step)
        moved = state.adv + broadcast_per_example(size, state.x) * unit
        adv = with_radius(state.ball, radius, state.x).project(moved, state.x)
        return replace(state, adv=adv, memory={"radius": radius})

    return rule


def _long_enough(state: MinimumNormState, unit: Tensor, radius: Tensor, step: float) -> Tensor:
    """Return the step's length, up to the radius at least where no point is known yet."""
    way = (radius.minimum(box_diameter(state.ball, state.x)) - state.distance).clamp_min(0.0).to(unit.dtype)
    needed = way / norm_like(state.ball, unit).flatten().clamp_min(torch.finfo(unit.dtype).tiny)
    unknown = ~torch.isfinite(state.best_distance)
    return torch.where(unknown, needed.clamp_min(step), step)


def _before(state: MinimumNormState, first: float) -> Tensor:
    """Return the radius so far: at a start that fools its distance, else ``first``."""
    return state.memory.get("radius", torch.where(state.fooled, state.distance, first))


def _next_radius(state: MinimumNormState, share: float) -> Tensor:
    before, unknown = _before(state, torch.inf), ~torch.isfinite(state.best_distance)
    estimate = state.distance + (state.value.abs() / dual(state.ball, state.grad).clamp_min(1e-30)).double()
    known = torch.where(unknown, estimate, before)
    outside = known * (1 + share)  # beyond the estimate, which would only be approached
    return torch.where(state.fooled, (before * (1 - share)).minimum(state.best_distance), outside)


def _next_count(state: MinimumNormState, share: float) -> Tensor:
    """Return the next number of values that may change: at least one fewer or one more."""
    before = _before(state, 0.0)
    fewer = (before - 1).minimum((before * (1 - share)).floor()).minimum(state.best_distance)
    more = (before + 1).maximum((before * (1 + share)).floor())
    return torch.where(state.fooled, fewer, more).clamp_min(1.0)

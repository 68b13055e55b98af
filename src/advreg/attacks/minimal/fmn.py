"""FMN: a gradient step projected onto a ball whose radius follows the boundary, in linf, l2, l1 and l0."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advreg.attacks.judge import Model, bind_dtype
from advreg.attacks.minimal.ddn import cosine
from advreg.attacks.minimal.hunt import Plan, hunt
from advreg.attacks.minimal.looks import along, dual
from advreg.attacks.minimal.result import MinimalResult
from advreg.attacks.minimal.sparse import Ball, Sparse, at_radius
from advreg.attacks.minimal.state import Rule, State
from advreg.objectives import Objective, margin
from advreg.threat import per_example

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
    first-order way left, ``|f| / ||grad f||_dual``, and a little more; from then on it is multiplied by ``1 - gamma`` after
    an iterate that fools (and is never larger than the best distance) and by ``1 + gamma`` after one that does not. Both a
    and gamma fall along a cosine. One forward and one backward a step.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``; eval mode. A fast target proposes, its original judges.
        x: clean inputs ``(B, ...)`` in the threat's box.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the wanted classes if targeted.
        threat: a `ThreatModel`, or a `Sparse` for the number of values changed; with eps 0 all search to the end.
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
    look, rule = along(model, objective, targeted=targeted), fmn_rule(steps, gamma, step_size)
    plan = Plan(model, [look], rule, steps, restarts, targeted, early_stop, seed=seed)
    return hunt(plan, x, y, threat, ids=ids, batch_size=batch_size)


def fmn_rule(steps: int, gamma: float, step_size: float) -> Rule:
    """Return FMN's step."""

    def rule(state: State, k: int) -> State:
        share = cosine(gamma, gamma / 50, k, steps)
        first = 0.0 if isinstance(state.ball, Sparse) else torch.inf
        before = state.memory.get("radius", torch.full_like(state.distance, first))
        radius = (_next_count if isinstance(state.ball, Sparse) else _next_radius)(state, before, share)
        size = state.grad.flatten(1).norm(dim=1).clamp_min(1e-30)
        moved = state.adv + cosine(step_size, step_size / 1000, k, steps) * state.grad / per_example(size, state.x)
        adv = at_radius(state.ball, radius, state.x).project(moved, state.x)
        return replace(state, adv=adv, memory={"radius": radius})

    return rule


def _next_radius(state: State, before: Tensor, share: float) -> Tensor:
    unknown = ~torch.isfinite(state.best_distance)
    estimate = state.distance + (state.value.abs() / dual(state.ball, state.grad).clamp_min(1e-30)).double()
    outside = torch.where(unknown, estimate, before) * (
        1 + share
    )  # beyond the estimate, lest it be approached for ever
    return torch.where(state.fooled, (before * (1 - share)).minimum(state.best_distance), outside)


def _next_count(state: State, before: Tensor, share: float) -> Tensor:
    """Return the next number of values that may change: at least one fewer or one more."""
    fewer = (before - 1).minimum((before * (1 - share)).floor()).minimum(state.best_distance)
    more = (before + 1).maximum((before * (1 + share)).floor())
    return torch.where(state.fooled, fewer, more).clamp_min(1.0)

"""DDN: a gradient step on a sphere that shrinks while it fools and grows while it does not."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from advreg.attacks.minimum_norm.l0 import norm_like
from advreg.attacks.minimum_norm.linearisation import linearise_objective
from advreg.attacks.minimum_norm.result import MinimalResult
from advreg.attacks.minimum_norm.search import SearchConfig, require_norm, search_minimum_norm
from advreg.attacks.minimum_norm.state import MinimumNormState, Rule
from advreg.attacks.model import Model, bind_dtype
from advreg.objectives import Objective, cross_entropy
from advreg.threat import ThreatModel, broadcast_per_example


def ddn(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    radius: float | None = None,
    gamma: float = 0.05,
    step_size: float | None = None,
    objective: Objective = cross_entropy,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> MinimalResult:
    """Attack in l2 by decoupled direction and norm: ``d <- r (d + a g) / ||d + a g||``, g the unit gradient.

    The radius r is multiplied by ``1 - gamma`` after an iterate that fools the model and by ``1 + gamma`` after one that does
    not; the step a falls from ``step_size`` to a hundredth of it along a cosine. One forward and one backward a step.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``; eval mode. A fast target proposes, its original judges.
        x: clean inputs ``(B, ...)`` in the threat's box.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the wanted classes if targeted.
        threat: l2, box, and the eps within which an example counts as broken; with eps 0 all search to the end.
        steps: iterations of one attempt.
        restarts: rounds; all but the first begin at a random point nearer than half the best distance.
        radius: the first sphere's, in the units of the input; None: the box's width.
        gamma: share by which the radius changes.
        step_size: length of the first step, in the units of the input; None: the box's width.
        objective: what to maximise, a function of logits and labels.
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
        ThreatError: a norm other than l2.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> found = ddn(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ThreatModel("l2", 0.0))
        >>> round(float(found.minimal), 2)
        0.14

    Reference: Rony et al., "Decoupling direction and norm for efficient gradient-based L2 adversarial attacks", CVPR 2019.
    """
    require_norm("ddn", threat, "l2")
    model = bind_dtype(model, x)
    radius = threat.width if radius is None else radius
    step_size = threat.width if step_size is None else step_size
    look, rule = linearise_objective(model, objective, targeted=targeted), ddn_rule(steps, radius, gamma, step_size)
    plan = SearchConfig(model, [look], rule, steps, restarts, targeted, early_stop, seed=seed)
    return search_minimum_norm(plan, x, y, threat, ids=ids, batch_size=batch_size)


def cosine(first: float, last: float, k: int, steps: int) -> float:
    """Return the value at step ``k`` of ``steps`` on the half cosine from ``first`` down to ``last``."""
    return last + (first - last) * (1 + math.cos(math.pi * k / steps)) / 2


def ddn_rule(steps: int, radius: float, gamma: float, step_size: float) -> Rule:
    """Return DDN's step."""

    def rule(state: MinimumNormState, k: int) -> MinimumNormState:
        x, ball = state.x, state.ball
        before = state.memory.get("radius", torch.full_like(state.value, radius / (1 + gamma)))
        now = before * torch.where(state.fooled, 1 - gamma, 1 + gamma)
        unit = state.grad / norm_like(ball, state.grad).clamp_min(1e-30)
        offset = state.adv - x + cosine(step_size, step_size / 100, k, steps) * unit
        on_sphere = x + broadcast_per_example(now, x) * offset / norm_like(ball, offset).clamp_min(1e-30)
        return replace(state, adv=on_sphere.clamp(*ball.box), memory={"radius": now})

    return rule

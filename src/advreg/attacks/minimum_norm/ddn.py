"""DDN: a gradient step on a sphere that shrinks after misclassified iterates and grows after correct ones."""

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

    The radius r is multiplied by ``1 - gamma`` after a misclassified iterate and by ``1 + gamma`` after a correct one; the
    step a falls from ``step_size`` to a hundredth of it along a cosine. A step costs one forward and one backward.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: l2, box, and the eps within which an example counts as broken; with eps 0 every search runs to the end.
        steps: iterations of one attempt.
        restarts: number of rounds; all but the first start at a random point nearer than half the best distance.
        radius: radius of the first sphere in the units of the input; the box's width if None.
        gamma: share by which the radius changes.
        step_size: length of the first step in the units of the input; the box's width if None.
        objective: function of logits and labels to maximise.
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
        ThreatError: a norm other than l2.
        ConfigError: ``steps`` or ``restarts`` below 1.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> found = ddn(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ThreatModel("l2", 0.0))
        >>> round(float(found.min_distance), 2)
        0.14

    Reference: Rony et al., "Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and
    defenses", CVPR 2019, arXiv:1811.09600.
    """
    require_norm("ddn", threat, "l2")
    model = bind_dtype(model, x)
    radius = threat.width if radius is None else radius
    step_size = threat.width if step_size is None else step_size
    linearise = linearise_objective(model, objective, targeted=targeted)
    rule = ddn_rule(steps, radius, gamma, step_size)
    plan = SearchConfig(model, [linearise], rule, steps, restarts, targeted, early_stop, seed=seed)
    return search_minimum_norm(plan, x, y, threat, ids=ids, batch_size=batch_size)


def cosine(first: float, last: float, k: int, steps: int) -> float:
    """Return ``last + (first - last) (1 + cos(pi k / steps)) / 2``.

    Args:
        first: value at step 0.
        last: value at step ``steps``.
        k: the step.
        steps: number of steps.

    Returns:
        The value at step ``k``.

    Example:
        >>> [round(cosine(1.0, 0.0, k, 4), 2) for k in range(5)]
        [1.0, 0.85, 0.5, 0.15, 0.0]
    """
    return last + (first - last) * (1 + math.cos(math.pi * k / steps)) / 2


def ddn_rule(steps: int, radius: float, gamma: float, step_size: float) -> Rule:
    """Return DDN's step: ``x + r d / ||d||_2`` with ``d = adv - x + step_size g / ||g||_2`` and ``r <- r (1 -+ gamma)``.

    Args:
        steps: iterations of one attempt.
        radius: radius of the first sphere.
        gamma: share by which the radius changes.
        step_size: length of the first step.

    Returns:
        The rule of `advreg.attacks.minimum_norm.search.SearchConfig`.

    Example:
        >>> from advreg.attacks.minimum_norm.search import SearchConfig
        >>> model, x, y = torch.nn.Linear(2, 2).eval(), torch.full((1, 2), 0.5), torch.tensor([0])
        >>> rule = ddn_rule(3, 1.0, 0.05, 1.0)
        >>> plan = SearchConfig(model, [linearise_objective(model, cross_entropy)], rule, steps=3)
        >>> search_minimum_norm(plan, x, y, ThreatModel("l2", 0.0)).closest_adv.shape
        torch.Size([1, 2])

    Reference: Rony et al., "Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and
    defenses", CVPR 2019, arXiv:1811.09600.
    """

    def rule(state: MinimumNormState, k: int) -> MinimumNormState:
        x, ball = state.x, state.ball
        before = state.memory.get("radius", torch.full_like(state.value, radius / (1 + gamma)))
        now = before * torch.where(state.fooled, 1 - gamma, 1 + gamma)
        unit = state.grad / norm_like(ball, state.grad).clamp_min(1e-30)
        offset = state.adv - x + cosine(step_size, step_size / 100, k, steps) * unit
        on_sphere = x + broadcast_per_example(now, x) * offset / norm_like(ball, offset).clamp_min(1e-30)
        return replace(state, adv=on_sphere.clamp(*ball.box), memory={"radius": now})

    return rule

"""DeepFool: step onto the nearest linearised boundary until it is crossed."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from advreg.attacks.minimum_norm.hyperplane_projection import step_toward
from advreg.attacks.minimum_norm.linearisation import linearise_nearest_class, linearise_objective, straight_way
from advreg.attacks.minimum_norm.result import MinimalResult
from advreg.attacks.minimum_norm.search import SearchConfig, require_norm, search_minimum_norm
from advreg.attacks.minimum_norm.state import MinimumNormState, Rule
from advreg.attacks.model import Model, bind_dtype
from advreg.objectives import margin
from advreg.threat import ThreatModel


def deepfool(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 50,
    overshoot: float = 0.02,
    targeted: bool = False,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> MinimalResult:
    """Attack by DeepFool: ``x_k`` steps onto the nearest of the linearised boundaries until its class changes.

    Fast and rough: an example leaves with its first success, even one beyond eps. A step is as long as it would be without the
    box, which then cuts it. An example costs K-1 backwards a step (1 if targeted). Where no step succeeds, an ascent from a
    random point of the box, at most 21 forwards and 20 backwards, looks for a point, and ten forwards bring it near.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``; eval mode. A fast target proposes, its original judges.
        x: clean inputs ``(B, ...)`` in the threat's box.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the wanted classes if targeted.
        threat: norm (linf, l2 or l1), box, and the eps within which an example counts as broken.
        steps: steps at most.
        overshoot: share by which the way from x is made longer, to cross the boundary and not only touch it.
        targeted: whether ``y`` is the class the adversary wants.
        ids: example ids ``(B,)``: the random start of an ascent depends on the example's id and the seed only.
        seed: seed of those starts.
        batch_size: examples under attack at a time.

    Returns:
        A `MinimalResult`, judged by the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> found = deepfool(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ThreatModel("linf", 0.0))
        >>> round(float(found.minimal), 3)
        0.102

    Reference: Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool: a simple and accurate method to fool deep neural networks",
    CVPR 2016.
    """
    require_norm("deepfool", threat, "linf", "l2", "l1")
    model = bind_dtype(model, x)
    look = (
        linearise_objective(model, margin, targeted=True) if targeted else linearise_nearest_class(model, straight_way)
    )
    climb, rule = linearise_objective(model, margin, targeted=targeted), deepfool_rule(overshoot)
    plan = SearchConfig(model, [look], rule, steps, targeted=targeted, first_only=True, last_resort=climb, seed=seed)
    return search_minimum_norm(plan, x, y, threat, ids=ids, batch_size=batch_size)


def deepfool_rule(overshoot: float) -> Rule:
    """Return DeepFool's step; the iterate is kept short of the overshoot, which is added for the look only."""

    def rule(state: MinimumNormState, _: int) -> MinimumNormState:
        low, high = state.ball.box
        short = state.memory.get("short", state.x)
        reached = (short + step_toward(state, short)).clamp(low, high)
        beyond = state.x + (1 + overshoot) * (reached - state.x)
        return replace(state, adv=beyond.clamp(low, high), memory={"short": reached})

    return rule

"""DeepFool: step onto the nearest linearised decision boundary until it is crossed."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from advreg.attacks.minimum_norm.hyperplane_projection import step_toward
from advreg.attacks.minimum_norm.linearisation import distance_without_box, linearise_nearest_class, linearise_objective
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
    """Attack by DeepFool: ``x_k`` steps onto the nearest of the linearised decision boundaries until its class changes.

    Fast, but not precise: an example leaves with its first success, even one beyond eps. A step is as long as without the
    box, and is then cut at the box. A step costs K-1 backwards an example (1 if targeted). If no step succeeds, an ascent
    from a random point of the box (at most 21 forwards and 20 backwards) searches for a point, and ten forwards bring it
    near.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: norm (linf, l2 or l1), box, and the eps within which an example counts as broken.
        steps: largest number of steps.
        overshoot: share by which the perturbation is lengthened, so that it crosses the boundary.
        targeted: whether ``y`` holds the classes that the adversary wants.
        ids: example ids ``(B,)``; the random start of an ascent depends on the id and the seed only; 0 to B-1 if None.
        seed: seed of the random starts.
        batch_size: number of examples attacked at a time.

    Returns:
        A `MinimalResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ThreatError: l0.
        ConfigError: ``steps`` below 1.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> found = deepfool(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ThreatModel("linf", 0.0))
        >>> round(float(found.min_distance), 3)
        0.102

    Reference: Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool: a simple and accurate method to fool deep neural networks",
    CVPR 2016, arXiv:1511.04599.
    """
    require_norm("deepfool", threat, "linf", "l2", "l1")
    model = bind_dtype(model, x)
    linearise = (
        linearise_objective(model, margin, targeted=True)
        if targeted
        else linearise_nearest_class(model, distance_without_box)
    )
    climb, rule = linearise_objective(model, margin, targeted=targeted), deepfool_rule(overshoot)
    plan = SearchConfig(
        model, [linearise], rule, steps, targeted=targeted, first_only=True, last_resort=climb, seed=seed
    )
    return search_minimum_norm(plan, x, y, threat, ids=ids, batch_size=batch_size)


def deepfool_rule(overshoot: float) -> Rule:
    """Return DeepFool's step; the stored iterate has no overshoot, which is added for the query only.

    Returns:
        The rule of `advreg.attacks.minimum_norm.search.SearchConfig`.
    """

    def rule(state: MinimumNormState, _: int) -> MinimumNormState:
        low, high = state.ball.box
        short = state.memory.get("short", state.x)
        reached = (short + step_toward(state, short)).clamp(low, high)
        beyond = state.x + (1 + overshoot) * (reached - state.x)
        return replace(state, adv=beyond.clamp(low, high), memory={"short": reached})

    return rule

"""FAB: steps between the projections of the iterate and of the clean point onto the linearised decision boundary."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advreg._deprecation import renamed_options
from advreg.attacks.minimum_norm.hyperplane_projection import step_onto
from advreg.attacks.minimum_norm.l0 import norm_like
from advreg.attacks.minimum_norm.linearisation import (
    distance_in_box,
    linearise_class_rank,
    linearise_nearest_class,
    linearise_objective,
)
from advreg.attacks.minimum_norm.result import MinimalResult
from advreg.attacks.minimum_norm.search import SearchConfig, require_norm, search_minimum_norm
from advreg.attacks.minimum_norm.state import Linearise, MinimumNormState, Rule
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.search import require_positive
from advreg.errors import ConfigError
from advreg.objectives import margin
from advreg.threat import NORMS, ThreatModel, broadcast_per_example


@renamed_options(targets="target_classes")
def fab(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    target_classes: int | None = None,
    alpha_max: float = 0.1,
    overshoot: float = 1.05,
    beta: float = 0.9,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> MinimalResult:
    """Attack by the fast adaptive boundary attack: the nearest misclassified point, in linf, l2 or l1.

    The lead h of another class is linearised at the iterate. With d1 and d2 the steps of the iterate and the clean point
    onto its zero (nearest in the norm, inside the box) and ``a = min(|d1| / (|d1| + |d2|), alpha_max)``, the next iterate
    is ``(1 - a)(x_k + overshoot d1) + a (x + overshoot d2)``; after a misclassified iterate it is ``x + beta (x_k - x)``
    first. An iteration has two queries, one after each of these moves; without a backward move the second one is a
    projection, too.

    An example that never comes within eps costs, for each restart and attacked class, ``2 steps + 1`` forwards and ``2
    steps`` backwards (times K-1 without ``target_classes``), one forward to verify a point if one was found, one at the
    clean point, and one inside eps.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: norm, box, and the eps within which an example counts as broken; with eps 0 every search runs to the end.
        steps: iterations of one attempt.
        restarts: number of rounds; all but the first start at a random point nearer than half the best distance.
        target_classes: None to linearise all other classes at each step, or the number of other classes to attack in turn,
            by clean logit (FAB-T uses 9).
        alpha_max: largest weight of the clean point's projection.
        overshoot: factor of the projection steps, above 1 to cross the boundary.
        beta: factor of the perturbation after a misclassified iterate, below 1.
        targeted: whether ``y`` holds the classes that the adversary wants; h is then the lead of that class over the best
            other.
        early_stop: whether an example within eps leaves at once, or the search for a nearer point goes on.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random starts.
        batch_size: number of examples attacked at a time.

    Returns:
        A `MinimalResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ThreatError: l0.
        ConfigError: ``steps``, ``restarts`` or ``target_classes`` below 1, or ``target_classes`` together with
            ``targeted``.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> found = fab(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ThreatModel("linf", 0.0))
        >>> round(float(found.min_distance), 2)
        0.1

    Reference: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020,
    arXiv:1907.02044.
    """
    require_norm("fab", threat, *NORMS)
    require_positive(steps=steps)
    model, rule = bind_dtype(model, x), fab_rule(alpha_max, overshoot, beta)
    queries = _linearisations(model, target_classes, targeted)
    plan = SearchConfig(model, queries, rule, 2 * steps, restarts, targeted, early_stop, seed=seed)
    return search_minimum_norm(plan, x, y, threat, ids=ids, batch_size=batch_size)


def fab_rule(alpha_max: float, overshoot: float, beta: float) -> Rule:
    """Return FAB's step, or one backward move after each misclassified iterate; a query follows either.

    Args:
        alpha_max: largest weight of the clean point's projection.
        overshoot: factor of the projection steps.
        beta: factor of the perturbation in a backward move.

    Returns:
        The rule of `advreg.attacks.minimum_norm.search.SearchConfig`.
    """

    def rule(state: MinimumNormState, _: int) -> MinimumNormState:
        x, ball = state.x, state.ball
        returns = state.fooled & ~state.memory.get("returned", torch.zeros_like(state.fooled))
        drawn_back = x + beta * (state.adv - x)
        from_adv, from_x = step_onto(state, state.adv), step_onto(state, x)
        near, far = norm_like(ball, from_adv), norm_like(ball, from_x)
        share = (near / (near + far).clamp_min(1e-30)).clamp_max(alpha_max)
        moved = (1 - share) * (state.adv + overshoot * from_adv) + share * (x + overshoot * from_x)
        adv = torch.where(broadcast_per_example(returns, x), drawn_back, moved)
        return replace(state, adv=adv.clamp(*ball.box), memory={"returned": returns})

    return rule


def _linearisations(model: Model, target_classes: int | None, targeted: bool) -> list[Linearise]:
    if targeted and target_classes is not None:
        raise ConfigError(
            f"target_classes is {target_classes} in a targeted attack, where y gives the class; leave target_classes out"
        )
    if target_classes is not None and target_classes < 1:
        raise ConfigError(f"target_classes is {target_classes}; give 1 or more, or None for all classes at once")
    if targeted:
        return [linearise_objective(model, margin, targeted=True)]
    return (
        [linearise_nearest_class(model, distance_in_box)]
        if target_classes is None
        else [linearise_class_rank(model, rank) for rank in range(target_classes)]
    )

"""FAB: between the iterate's and the clean point's projections onto the linearised boundary, and back when it is crossed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advreg.attacks.minimum_norm.hyperplane_projection import step_onto
from advreg.attacks.minimum_norm.l0 import norm_like
from advreg.attacks.minimum_norm.linearisation import (
    inside_way,
    linearise_class_rank,
    linearise_nearest_class,
    linearise_objective,
)
from advreg.attacks.minimum_norm.result import MinimalResult
from advreg.attacks.minimum_norm.search import SearchConfig, require_norm, search_minimum_norm
from advreg.attacks.minimum_norm.state import Look, MinimumNormState, Rule
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.search import require_positive
from advreg.errors import ConfigError
from advreg.objectives import margin
from advreg.threat import NORMS, ThreatModel, broadcast_per_example


def fab(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    targets: int | None = None,
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

    The lead h of another class is linearised at the iterate. With d1 and d2 the steps of iterate and clean point onto its zero
    (nearest in the norm, inside the box) and ``a = min(|d1| / (|d1| + |d2|), alpha_max)``, the next iterate is
    ``(1 - a)(x_k + overshoot d1) + a (x + overshoot d2)``, and where that is misclassified ``x + beta (x_k - x)`` from there.
    A step has room for both and looks at the model after each; what needs no way back is on its next projection by then.

    An example that stands to the end costs, for each restart and target, ``2 steps + 1`` forwards and ``2 steps`` backwards
    (times K-1 without targets), one forward of the judge if a point was found, one at the clean point and one inside eps.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``; eval mode. A fast target proposes, its original judges.
        x: clean inputs ``(B, ...)`` in the threat's box.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the wanted classes if targeted.
        threat: norm, box, and the eps within which an example counts as broken; with eps 0 all search to the end.
        steps: iterations of one attempt.
        restarts: rounds; all but the first begin at a random point nearer than half the best distance.
        targets: None to look at all other classes each step, or how many of the highest other clean logits to aim at in
            turn: FAB-T with 9.
        alpha_max, overshoot, beta: as above.
        targeted: whether ``y`` is the class the adversary wants; then h is its lead over the best other class.
        early_stop: whether an example within eps leaves at once, or goes on for a nearer point.
        ids: example ids ``(B,)``: an example's draws depend on its id and the seed only.
        seed: seed of the random starts.
        batch_size: examples under attack at a time.

    Returns:
        A `MinimalResult`, judged by the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ConfigError: steps, restarts or targets below 1, or targets together with ``targeted``.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> found = fab(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ThreatModel("linf", 0.0))
        >>> round(float(found.minimal), 2)
        0.1

    Reference: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020.
    """
    require_norm("fab", threat, *NORMS)
    require_positive(steps=steps)
    model, rule = bind_dtype(model, x), fab_rule(alpha_max, overshoot, beta)
    plan = SearchConfig(
        model, _looks(model, targets, targeted), rule, 2 * steps, restarts, targeted, early_stop, seed=seed
    )
    return search_minimum_norm(plan, x, y, threat, ids=ids, batch_size=batch_size)


def fab_rule(alpha_max: float, overshoot: float, beta: float) -> Rule:
    """Return FAB's step, or once after each step that fools the way back; the model is looked at afresh after either."""

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


def _looks(model: Model, targets: int | None, targeted: bool) -> list[Look]:
    if targeted and targets is not None:
        raise ConfigError(f"targets is {targets} in a targeted attack, where y says the class; leave targets out")
    if targets is not None and targets < 1:
        raise ConfigError(f"targets is {targets}; give 1 or more, or None to look at all classes at once")
    if targeted:
        return [linearise_objective(model, margin, targeted=True)]
    return (
        [linearise_nearest_class(model, inside_way)]
        if targets is None
        else [linearise_class_rank(model, rank) for rank in range(targets)]
    )

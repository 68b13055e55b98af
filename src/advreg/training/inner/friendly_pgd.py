"""Friendly attacks: PGD that lets go of an example soon after the model got it wrong."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from advreg.attacks import CraftedExamples
from advreg.attacks.inputs import checked_once, read_training
from advreg.attacks.model import widen
from advreg.attacks.search import QuerySpec, initial_state, query
from advreg.attacks.step_rules import Start, initial_point, pgd_rule
from advreg.objectives import Objective, cross_entropy
from advreg.threat import ThreatModel


def friendly_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    tau: int = 0,
    steps: int = 10,
    step_size: float | None = None,
    start: Start = "uniform",
    objective: Objective = cross_entropy,
    ids: Tensor | None = None,
    seed: int = 0,
) -> CraftedExamples:
    """Make training points with PGD that takes at most ``tau`` steps from misclassified points.

    An example that is wrong for the first time is let go at once with ``tau`` 0, after one more step with 1, and so on; what
    is let go costs nothing more. It lifts clean accuracy, and lowers the robust one.

    Args:
        model, x, y, threat, objective, ids, seed: as for `advreg.attacks.craft`; the model's mode is left as it is.
        tau: steps that may begin at a misclassified point.
        steps: gradient steps at most.
        step_size: length of a step; as for `advreg.attacks.craft` if None.
        start: ``"uniform"`` or ``"zero"``.

    Returns:
        A `CraftedExamples`: at most ``steps`` forwards and as many backwards for each example.

    Raises:
        DataError, ModelError: as `advreg.attacks.craft` does.

    Example:
        >>> model, x = torch.nn.Linear(4, 2), torch.full((1, 4), 0.5)
        >>> wrong = model(x).argmin(1)  # already: there is nothing to do
        >>> friendly_pgd(model, x, wrong, ThreatModel("linf", 0.1), start="zero").x_adv.equal(x)
        True

    Reference: Zhang et al., "Attacks which do not kill training make adversarial learning stronger", ICML 2020.
    """
    x, y = read_training(x, y, threat)
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    x = widen(x)
    ask, rule = QuerySpec(model, checked_once(objective)), pgd_rule(steps, step_size, 0.0, start)
    state = initial_state(x, y, threat, initial_point(start, x, threat, ids, seed))
    state = replace(state, memory={"left": torch.full((len(x),), tau, device=x.device)})
    x_adv, spent = state.adv.clone(), 0
    for k in range(steps):
        logits, _, grad = query(ask, state.adv, state.y)
        spent += len(state.rows)
        wrong, left = ask.fooled(logits, state.y), state.memory["left"]
        state = replace(state, grad=grad, memory={"left": left - wrong.to(left.dtype)})
        leaves = wrong & (left <= 0)
        if leaves.any():
            x_adv[state.rows[leaves]] = state.adv[leaves]
            state = state.select((~leaves).nonzero()[:, 0])
        if not len(state.rows):
            break
        state = rule(state, k)
    x_adv[state.rows] = state.adv
    return CraftedExamples(x_adv, forwards=spent, backwards=spent)

"""Friendly attacks: PGD that lets go of an example soon after the model got it wrong."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from advreg.attacks import CraftedExamples
from advreg.attacks.inputs import read_training
from advreg.attacks.model import widen
from advreg.attacks.outputs import checked_once
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

    The search at an example ends when the example is first misclassified with ``tau`` 0, one step later with 1, and so on, and
    then costs no more passes. This raises clean accuracy and lowers robust accuracy.

    Args:
        model: network that returns logits ``(B, K)``; its mode is not changed.
        x: inputs ``(B, ...)`` inside the box.
        y: labels ``(B,)``, or probabilities ``(B, K)`` where the objective takes them.
        threat: norm, eps and box.
        tau: number of steps from misclassified points.
        steps: gradient steps at most.
        step_size: length of a step; if None ``2.5 eps / steps``, or ``1.25 eps`` for one step from a random start.
        start: ``"uniform"`` or ``"zero"``.
        objective: ``(logits, y) -> (B,)``, maximised.
        ids: example ids ``(B,)`` that seed the random draws; positions in the batch if None.
        seed: seed of the random draws.

    Returns:
        A `CraftedExamples`: at most ``steps`` forwards and as many backwards for each example.

    Raises:
        DataError: inputs outside the box, an empty batch, labels that the model does not have.
        ModelError: an output that is not logits, or no gradient path.

    Example:
        >>> model, x = torch.nn.Linear(4, 2), torch.full((1, 4), 0.5)
        >>> wrong = model(x).argmin(1)  # misclassified already, so no step is taken
        >>> friendly_pgd(model, x, wrong, ThreatModel("linf", 0.1), start="zero").x_adv.equal(x)
        True

    Reference: Zhang et al., "Attacks which do not kill training make adversarial learning stronger", ICML 2020,
    arXiv:2002.11242.
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

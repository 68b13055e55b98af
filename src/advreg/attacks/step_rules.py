"""Starts and step rules of PGD: steepest steps, with momentum, and with Nesterov's look-ahead."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from advreg.attacks.search import AttackState, Rule
from advreg.errors import ThreatError
from advreg.example_rng import Stream
from advreg.threat import ThreatModel, broadcast_per_example

Start = Literal["uniform", "zero"]


def initial_point(start: Start, x: Tensor, threat: ThreatModel, ids: Tensor, seed: int, stream: Stream = 0) -> Tensor:
    """Return the first point of an attempt: the clean point, or a uniform draw from the ball.

    Args:
        start: ``"uniform"`` or ``"zero"``.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        ids: example ids ``(B,)``, on which the draws depend.
        seed: seed of the random draws.
        stream: which of several independent draws, such as the restart.

    Returns:
        Points ``(B, ...)`` inside the threat model.

    Raises:
        ThreatError: another ``start``.

    Example:
        >>> x = torch.full((2, 4), 0.5)
        >>> initial_point("zero", x, ThreatModel("linf", 0.1), torch.arange(2), seed=0) is x
        True
    """
    if start == "zero":
        return x
    if start != "uniform":
        raise ThreatError(f"start is {start!r}; allowed: 'uniform' (drawn from the ball) or 'zero' (the clean point)")
    return threat.random_start(x, ids, seed, stream)


def step_length(state: AttackState, step_size: float | None, share: float) -> float | Tensor:
    """Return the length of a step: ``step_size`` if given, else ``share`` of each row's eps."""
    return share * state.radii if step_size is None else step_size


def steepest_step(step_size: float | None, share: float) -> Rule:
    """Return the rule that steps along the steepest direction of the norm, then projects.

    Args:
        step_size: length of a step in the units of the input, or None.
        share: length of a step as a share of eps if ``step_size`` is None.

    Returns:
        The rule: from the state after a query to the next iterate.
    """

    def rule(state: AttackState, _: int) -> AttackState:
        direction = state.threat.steepest(state.grad, state.adv, state.x)
        moved = state.adv + step_length(state, step_size, share) * direction
        return state.moved_to(moved)

    return rule


def momentum_step(step_size: float | None, share: float, decay: float) -> Rule:
    """Return the rule that steps along a decaying sum of past gradients, each divided by its l1 norm.

    Args:
        step_size: length of a step in the units of the input, or None.
        share: length of a step as a share of eps if ``step_size`` is None.
        decay: factor of the sum at each step.

    Returns:
        The rule: from the state after a query to the next iterate.

    Reference: Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018, arXiv:1710.06081.
    """

    def rule(state: AttackState, _: int) -> AttackState:
        size = state.grad.flatten(1).abs().sum(1).clamp_min(torch.finfo(state.grad.dtype).tiny)
        unit = state.grad / broadcast_per_example(size, state.x)
        velocity = decay * state.memory.get("velocity", torch.zeros_like(unit)) + unit
        direction = state.threat.steepest(velocity, state.adv, state.x)
        moved = state.adv + step_length(state, step_size, share) * direction
        return state.moved_to(moved, memory={"velocity": velocity})

    return rule


def nesterov_step(step_size: float | None, share: float, decay: float) -> Rule:
    """Return the momentum rule with the next gradient at the point that momentum alone would reach.

    ``adv`` is that look-ahead point, inside the threat model; ``memory["at"]`` is the iterate itself.

    Args:
        step_size: length of a step in the units of the input, or None.
        share: length of a step as a share of eps if ``step_size`` is None.
        decay: factor of the sum of gradients at each step, and length of the look-ahead in steps.

    Returns:
        The rule: from the state after a query to the next iterate.

    Reference: Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks", ICLR 2020,
    arXiv:1908.06281.
    """
    plain = momentum_step(step_size, share, decay)

    def rule(state: AttackState, k: int) -> AttackState:
        memory = dict(state.memory)
        at = memory.pop("at", state.adv)
        moved = plain(replace(state, adv=at, memory=memory), k)
        onward = state.threat.steepest(moved.memory["velocity"], moved.adv, state.x)
        ahead = decay * step_length(state, step_size, share) * onward
        return moved.moved_to(moved.adv + ahead, memory={**moved.memory, "at": moved.adv})

    return rule


def pgd_rule(steps: int, step_size: float | None, momentum: float, start: Start) -> Rule:
    """Return the step rule of PGD.

    A step is ``2.5 eps / steps`` long by default, which is enough to cross the ball and to converge. A single step is eps
    long, or 1.25 eps from a random start.

    Args:
        steps: number of steps of an attempt.
        step_size: length of a step in the units of the input, or None for the default.
        momentum: decay of the averaged gradient; 0 for none.
        start: ``"uniform"`` or ``"zero"``.

    Returns:
        The rule: from the state after a query to the next iterate.

    Example:
        >>> from advreg.attacks.search import initial_state
        >>> x, threat = torch.full((1, 2), 0.5), ThreatModel("linf", 0.1)
        >>> state = replace(initial_state(x, torch.tensor([0]), threat, x), grad=torch.tensor([[1.0, -2.0]]))
        >>> [round(value, 3) for value in pgd_rule(5, None, 0.0, "zero")(state, 0).adv[0].tolist()]
        [0.55, 0.45]

    Reference: Wong, Rice, Kolter, "Fast is better than free: revisiting adversarial training", ICLR 2020, arXiv:2001.03994,
    for one step.
    """
    share = 2.5 / steps if steps > 1 else 1.25 if start == "uniform" else 1.0
    return momentum_step(step_size, share, momentum) if momentum else steepest_step(step_size, share)

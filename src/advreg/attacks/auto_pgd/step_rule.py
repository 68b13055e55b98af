"""Auto-PGD's step rule: it sets its own step size from what the loss did, example by example.

What an example remembers travels in `State.memory`: its peak (the iterate of highest loss, with its gradient), its step size
and what it has seen since the last checkpoint. `State.best` cannot serve as the peak: it puts fooled points first.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advreg.attacks.search import AttackState, Rule
from advreg.threat import broadcast_per_example

Memory = dict[str, Tensor]

MOMENTUM = 0.75  # weight of the new step; the rest is the step before
RISES = 0.75  # share of a period's steps that must raise the loss for the step size to be kept


def checkpoints(steps: int) -> dict[int, int]:
    """Return the iterations at which the step size is reviewed, each with the length of the period that it ends.

    The first period is 22% of the steps, each next one 3% shorter, none under 6%, all rounded down and at least 1.

    Example:
        >>> list(checkpoints(100))
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    period, shorter, shortest = (max(percent * steps // 100, 1) for percent in (22, 3, 6))
    found, at = {}, period
    while at < steps:
        found[at] = period
        period = max(period - shorter, shortest)
        at += period
    return found


def peaked(state: AttackState) -> Memory:
    """Return the memory with the peak brought up to date, by loss alone."""
    old = state.memory
    if not old:
        return {"peak": state.adv, "peak_grad": state.grad, "peak_loss": state.loss}
    higher = state.loss > old["peak_loss"]
    wide = broadcast_per_example(higher, state.x)
    return old | {
        "peak": torch.where(wide, state.adv, old["peak"]),
        "peak_grad": torch.where(wide, state.grad, old["peak_grad"]),
        "peak_loss": torch.where(higher, state.loss, old["peak_loss"]),
    }


def at_peak(state: AttackState, memory: Memory, rows: Tensor) -> AttackState:
    """Return the state in which these rows (booleans) stand at their peak again."""
    wide = broadcast_per_example(rows, state.x)
    return replace(
        state,
        adv=torch.where(wide, memory["peak"], state.adv),
        grad=torch.where(wide, memory["peak_grad"], state.grad),
        loss=torch.where(rows, memory["peak_loss"], state.loss),
    )


def eps_of(state: AttackState) -> Tensor:
    """Return each row's eps, ``(B,)``, in the dtype of the inputs."""
    return state.radii.flatten()


def momentum_rule(steps: int) -> Rule:
    """Return Auto-PGD's rule for linf and l2: steepest steps with momentum, from 2 eps, halved where the loss stops rising.

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness", ICML 2020, algorithm 1.
    """
    review = checkpoints(steps)

    def rule(state: AttackState, k: int) -> AttackState:
        memory = _watched(state)
        if k in review:
            state, memory = _reviewed(state, memory, review[k])
        step = broadcast_per_example(memory["step_size"], state.x) * state.threat.steepest(state.grad, state.adv)
        ahead = state.region.project(state.adv + step)
        share = MOMENTUM if k else 1.0
        # after a return to the peak the momentum runs to it from the iterate before, as published
        moved = state.adv + share * (ahead - state.adv) + (1 - share) * (state.adv - memory["previous"])
        memory |= {"previous": state.adv, "previous_loss": state.loss}
        return state.moved_to(moved, memory=memory)

    return rule


def _watched(state: AttackState) -> Memory:
    """Return the memory after a query: the peak, and how often the loss rose since the last checkpoint."""
    if not state.memory:  # the start is the first step's predecessor: the reference compares it with an empty slot
        never = torch.zeros_like(state.rows)
        return peaked(state) | {
            "step_size": 2 * eps_of(state),
            "previous": state.adv,
            "previous_loss": state.loss,
            "rises": never,
            "reviewed_loss": state.loss,
            "halved": never.bool(),
        }
    return peaked(state) | {"rises": state.memory["rises"] + (state.loss > state.memory["previous_loss"])}


def _reviewed(state: AttackState, memory: Memory, period: int) -> tuple[AttackState, Memory]:
    """Halve the step and go back to the peak where too few steps raised the loss, or where the last review changed nothing.

    The second condition can fire at the first checkpoint, as in the paper: the reference never lets it.
    """
    few = memory["rises"] <= RISES * period
    stuck = ~memory["halved"] & (memory["peak_loss"] <= memory["reviewed_loss"])
    halve = few | stuck
    memory = memory | {
        "step_size": torch.where(halve, memory["step_size"] / 2, memory["step_size"]),
        "rises": torch.zeros_like(memory["rises"]),
        "reviewed_loss": memory["peak_loss"],
        "halved": halve,
    }
    # the loss goes back with the point, so that the next step is compared with the peak: the reference forgets to
    return at_peak(state, memory, halve), memory

"""The step rule of Auto-PGD: it adapts each example's step size to the progress of its loss.

`AttackState.memory` holds the peak (the iterate of highest loss, with its gradient), the step size, and statistics since
the last checkpoint. `AttackState.best` cannot serve as the peak, because points that fool the model precede higher losses
there.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advreg.attacks.search import AttackState, Rule
from advreg.threat import broadcast_per_example

Memory = dict[str, Tensor]

MOMENTUM = 0.75
"""Weight of the new step; the previous step has the rest."""

RISES = 0.75
"""Share of a period's steps that must raise the loss, else the step size is halved."""


def checkpoints(steps: int) -> dict[int, int]:
    """Return the iterations at which the step size is reviewed, each with the length of the period that it ends.

    The first period is 22% of the steps; each next one is 3% shorter, but at least 6%; all are rounded down and at least 1.

    Args:
        steps: gradient steps of an attempt.

    Returns:
        Length of the period by the iteration that ends it.

    Example:
        >>> list(checkpoints(100))
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    period, shorter, shortest = (max(percent * steps // 100, 1) for percent in (22, 3, 6))
    periods, at = {}, period
    while at < steps:
        periods[at] = period
        period = max(period - shorter, shortest)
        at += period
    return periods


def update_peak(state: AttackState) -> Memory:
    """Return the memory with the iterate of highest loss so far, its gradient and its loss.

    Args:
        state: the state after a query.

    Returns:
        Tensors by name.
    """
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
    """Return the state with some rows moved back to their peak.

    Args:
        state: the state after a query.
        memory: holds the peaks.
        rows: which rows to move, booleans ``(B,)``.

    Returns:
        The state.
    """
    wide = broadcast_per_example(rows, state.x)
    return replace(
        state,
        adv=torch.where(wide, memory["peak"], state.adv),
        grad=torch.where(wide, memory["peak_grad"], state.grad),
        loss=torch.where(rows, memory["peak_loss"], state.loss),
    )


def eps_of(state: AttackState) -> Tensor:
    """Return each row's eps, ``(B,)``, in the dtype of the inputs.

    Args:
        state: the state of an attack.

    Returns:
        Radii ``(B,)``.
    """
    return state.radii.flatten()


def momentum_rule(steps: int) -> Rule:
    """Return the rule of Auto-PGD for linf and l2: steps with momentum, from 2 eps, halved when progress stops.

    Args:
        steps: gradient steps of an attempt, from which the checkpoints follow.

    Returns:
        The rule: from the state after a query to the next iterate.

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020, arXiv:2003.01690, algorithm 1.
    """
    review = checkpoints(steps)

    def rule(state: AttackState, k: int) -> AttackState:
        memory = _updated_memory(state)
        if k in review:
            state, memory = _review_step_size(state, memory, review[k])
        direction = state.threat.steepest(state.grad, state.adv, state.x)
        step = broadcast_per_example(memory["step_size"], state.x) * direction
        ahead = state.region.project(state.adv + step)
        share = MOMENTUM if k else 1.0
        # after a restart from the peak, the momentum is the difference to the iterate before, as published
        moved = state.adv + share * (ahead - state.adv) + (1 - share) * (state.adv - memory["previous"])
        memory |= {"previous": state.adv, "previous_loss": state.loss}
        return state.moved_to(moved, memory=memory)

    return rule


def _updated_memory(state: AttackState) -> Memory:
    """Return the memory after a query: the peak, and how often the loss rose since the last checkpoint."""
    if not state.memory:  # the start counts as the first step's predecessor; the reference code reads an unset value
        never = torch.zeros_like(state.rows)
        return update_peak(state) | {
            "step_size": 2 * eps_of(state),
            "previous": state.adv,
            "previous_loss": state.loss,
            "rises": never,
            "reviewed_loss": state.loss,
            "halved": never.bool(),
        }
    return update_peak(state) | {"rises": state.memory["rises"] + (state.loss > state.memory["previous_loss"])}


def _review_step_size(state: AttackState, memory: Memory, period: int) -> tuple[AttackState, Memory]:
    """Halve the step and restart from the peak if few steps raised the loss, or the peak has not risen.

    The second condition can apply at the first checkpoint, as in the paper; in the reference code it never does.
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
    # the loss is reset with the point, so that the next step is compared with the peak; the reference code omits this
    return at_peak(state, memory, halve), memory

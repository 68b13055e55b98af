"""The last resort where no attempt found a point: climb anywhere in the box, then come back along the straight line."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from advreg.attacks.minimum_norm.state import MinimumNormState, Rule
from advreg.threat import ThreatModel, broadcast_per_example

CLIMB = 20
"""Looks of the climb: an annealed ascent through the whole box needs few."""

RETURN = 10
"""Forwards on the way back; each halves what is left of it."""

STREAM = 1 << 30
"""Stream of the climb's random starts, which no restart uses."""


def anywhere(x: Tensor, box: tuple[float, float], ids: Tensor, seed: int) -> Tensor:
    """Return a point drawn uniformly from the box for each example."""
    return ThreatModel("linf", box[1] - box[0], box).random_start(x, ids, seed, STREAM)


def climb_rule(steps: int) -> Rule:
    """Return a step up the look's value along the signs of its gradient, from half the box's width down to nothing."""

    def rule(state: MinimumNormState, k: int) -> MinimumNormState:
        step = state.ball.width * (1 + math.cos(math.pi * k / steps)) / 4
        return replace(state, adv=(state.adv + step * state.grad.sign()).clamp(*state.ball.box))

    return rule


def return_rule(far: Tensor) -> Rule:
    """Return a bisection of the line from each ``x`` to the point of ``far`` in its row of the batch: begin half-way."""

    def rule(state: MinimumNormState, _: int) -> MinimumNormState:
        memory = state.memory or {"right": torch.zeros_like(state.value), "fooling": torch.ones_like(state.value)}
        right, fooling = memory["right"], memory["fooling"]
        middle = (right + fooling) / 2
        right, fooling = torch.where(state.fooled, right, middle), torch.where(state.fooled, middle, fooling)
        share = broadcast_per_example((right + fooling) / 2, state.x)
        adv = (state.x + share * (far[state.rows] - state.x)).clamp(*state.ball.box)
        return replace(state, adv=adv, memory={"right": right, "fooling": fooling})

    return rule

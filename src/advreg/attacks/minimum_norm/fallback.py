"""Fallback if no attempt found a point: an ascent anywhere in the box, then bisection of the line back to the input."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from advreg.attacks.minimum_norm.state import MinimumNormState, Rule
from advreg.threat import broadcast_per_example, whole_box

ASCENT_STEPS = 20
"""Steps of the ascent; with a cosine schedule a few suffice to cross the box."""

RETURN_STEPS = 10
"""Bisections of the line back to the clean input."""

STREAM = 1 << 30
"""Stream of the random starts of the ascent, which no restart uses."""


def random_point(x: Tensor, box: tuple[float, float], ids: Tensor, seed: int) -> Tensor:
    """Return a point drawn uniformly from the box for each example, ``(B, ...)``.

    Args:
        x: clean inputs ``(B, ...)``, for shape and dtype.
        box: lowest and highest valid value of an input.
        ids: example ids ``(B,)``, on which the draws depend.
        seed: seed of the draws.

    Returns:
        Points ``(B, ...)``.

    Example:
        >>> point = random_point(torch.zeros(2, 4), (0.0, 1.0), torch.arange(2), seed=0)
        >>> bool(((point >= 0) & (point <= 1)).all())
        True
    """
    return whole_box(box).random_start(x, ids, seed, STREAM)


def ascent_rule(steps: int) -> Rule:
    """Return a sign-gradient ascent with a step that falls from half the box's width to zero along a cosine.

    Args:
        steps: gradient steps of the ascent.

    Returns:
        The rule of `advreg.attacks.minimum_norm.search.SearchConfig`.
    """

    def rule(state: MinimumNormState, k: int) -> MinimumNormState:
        step = state.ball.width * (1 + math.cos(math.pi * k / steps)) / 4
        return replace(state, adv=(state.adv + step * state.grad.sign()).clamp(*state.ball.box))

    return rule


def return_rule(far: Tensor) -> Rule:
    """Return a bisection of the line from each ``x`` to its row of ``far (B, ...)``; it starts at the middle.

    Args:
        far: misclassified points ``(B, ...)``.

    Returns:
        The rule of `advreg.attacks.minimum_norm.search.SearchConfig`.
    """

    def rule(state: MinimumNormState, _: int) -> MinimumNormState:
        memory = state.memory or {"correct": torch.zeros_like(state.value), "fooling": torch.ones_like(state.value)}
        correct, fooling = memory["correct"], memory["fooling"]
        middle = (correct + fooling) / 2
        correct = torch.where(state.fooled, correct, middle)
        fooling = torch.where(state.fooled, middle, fooling)
        share = broadcast_per_example((correct + fooling) / 2, state.x)
        adv = (state.x + share * (far[state.rows] - state.x)).clamp(*state.ball.box)
        return replace(state, adv=adv, memory={"correct": correct, "fooling": fooling})

    return rule

"""The state of a minimum-norm attack, and the two kinds of function that define one: linearisations and rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from advreg.attacks.minimum_norm.l0 import Ball
from advreg.attacks.rows import RowState


@dataclass(frozen=True)
class MinimumNormState(RowState):
    """One row for each example that is still searched.

    Attributes:
        rows: position of each row in the batch.
        x, y, clean: clean inputs, labels, and the logits of the clean inputs.
        goal: distance at which a row may leave.
        ball: norm, box and eps of these rows.
        adv: current iterate; distance: its distance from x; fooled: whether the attacked model misclassifies it.
        value, grad: value and gradient of the last linearisation.
        best, best_distance: the nearest misclassified iterate so far and its distance, inf if there is none.
        memory: tensors ``(B, ...)`` that the rule keeps between iterations.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    clean: Tensor
    goal: Tensor
    ball: Ball
    adv: Tensor
    distance: Tensor
    fooled: Tensor
    value: Tensor
    grad: Tensor
    best: Tensor
    best_distance: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)


Rule = Callable[[MinimumNormState, int], MinimumNormState]
"""``(state, iteration) -> state`` with the next iterate, inside the box, in ``adv``: where attacks differ."""


class Linearisation(NamedTuple):
    """Outputs of a query: logits ``(B, K)``, value ``(B,)``, its gradient ``(B, ...)``, number of backwards."""

    logits: Tensor
    value: Tensor
    grad: Tensor
    backwards: int = 1


Linearise = Callable[[MinimumNormState], Linearisation]
"""Queries the model at the iterates ``state.adv``."""

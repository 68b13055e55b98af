"""What a minimum-norm attack knows of its examples, and the two kinds of function that it is made of: looks and rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from advreg.attacks.minimum_norm.l0 import Ball
from advreg.attacks.rows import RowState


@dataclass(frozen=True)
class MinimumNormState(RowState):
    """One row for each example still hunted; everything in it can be selected by rows.

    Attributes:
        rows: position of each row in the batch.
        x, y, clean: clean inputs, labels and the logits at the clean inputs.
        goal: distance at which a row may leave.
        ball: norm and box, its eps one for each row where it varies.
        adv: current iterate; distance: its distance from x; fooled: whether it fools the model under attack.
        value, grad: what the last look saw there.
        best, best_distance: the nearest iterate so far that fooled, inf where none did.
        memory: whatever the rule wants to remember, tensors ``(B, ...)``.
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
"""``(state, iteration) -> state`` with the next iterate, inside the box, in ``adv``: the heart of an attack."""


class Linearisation(NamedTuple):
    """What one look sees: logits ``(B, K)``, value ``(B,)``, its gradient ``(B, ...)``, and the backwards it took."""

    logits: Tensor
    value: Tensor
    grad: Tensor
    backwards: int = 1


Look = Callable[[MinimumNormState], Linearisation]
"""What an attack asks of the model at the iterates."""

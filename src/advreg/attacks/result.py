"""What an attack returns: for each example the point it found, what the judge said of it, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class CraftedExamples:
    """Points made for training: inside the threat model, judged by nobody.

    Attributes:
        x_adv: ``(B, ...)``.
        forwards, backwards: example-forwards and example-backwards spent.
    """

    x_adv: Tensor
    forwards: int
    backwards: int


@dataclass(frozen=True, repr=False)
class AttackResult:
    """The outcome of an attack on a batch.

    Attributes:
        x_adv: the broken point where there is one, else the point of highest loss: ``(B, ...)``.
        broken: whether the judge confirmed it: misclassified by the original model, inside the threat model: ``(B,)``.
        distance: ``||x_adv - x||`` in the threat's norm: ``(B,)``.
        loss: the objective at ``x_adv`` on the original model: ``(B,)``.
        cost: example-forwards and example-backwards spent on each example: ``(B, 2)`` integers.
    """

    x_adv: Tensor
    broken: Tensor
    distance: Tensor
    loss: Tensor
    cost: Tensor

    @property
    def forwards(self) -> int:
        """Example-forwards spent, the judge's among them."""
        return int(self.cost[:, 0].sum())

    @property
    def backwards(self) -> int:
        """Example-backwards spent."""
        return int(self.cost[:, 1].sum())

    @property
    def robust_accuracy(self) -> float:
        """Share of examples left standing."""
        return 1.0 - float(self.broken.double().mean())

    def __repr__(self) -> str:
        n, broken = len(self.broken), int(self.broken.sum())
        return f"AttackResult(n={n}, broken={broken}, forwards={self.forwards}, backwards={self.backwards})"

    def select(self, rows: Tensor) -> AttackResult:
        """Return the result of these rows."""
        fields = (self.x_adv, self.broken, self.distance, self.loss, self.cost)
        return AttackResult(*(field[rows] for field in fields))

    def improved_by(self, other: AttackResult, rows: Tensor) -> AttackResult:
        """Return the worst case of two attacks, the other having run on these rows: broken first, then higher loss."""
        before = self.select(rows)
        better = (other.broken & ~before.broken) | ((other.broken == before.broken) & (other.loss > before.loss))
        winners = rows[better]
        merged = {name: getattr(self, name).clone() for name in ("x_adv", "broken", "distance", "loss", "cost")}
        for name in ("x_adv", "broken", "distance", "loss"):
            merged[name][winners] = getattr(other, name)[better]
        merged["cost"][rows] += other.cost
        return replace(self, **merged)


def concatenate(parts: list[AttackResult]) -> AttackResult:
    """Join the results of consecutive parts of a batch."""
    fields = ("x_adv", "broken", "distance", "loss", "cost")
    return AttackResult(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))

"""Results of attacks: for each example the point found, whether verification confirmed it, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, repr=False)
class CraftedExamples:
    """Adversarial examples made for training: inside the threat model, not verified.

    Attributes:
        x_adv: adversarial examples ``(B, ...)``.
        forwards, backwards: example-forwards and example-backwards spent.

    Example:
        >>> CraftedExamples(torch.zeros(2, 4), forwards=20, backwards=20)
        CraftedExamples(n=2, forwards=20, backwards=20)
    """

    x_adv: Tensor
    forwards: int
    backwards: int

    def __repr__(self) -> str:
        return f"CraftedExamples(n={len(self.x_adv)}, forwards={self.forwards}, backwards={self.backwards})"


@dataclass(frozen=True, repr=False)
class AttackResult:
    """The result of an attack on a batch.

    Attributes:
        x_adv: the point that breaks the example if there is one, else the point of highest loss (of lowest score, in tasks with
            scores): ``(B, ...)``.
        broken: whether the original model misclassifies ``x_adv`` and it is inside the threat model: ``(B,)``.
        distance: ``||x_adv - x||`` in the norm of the threat model: ``(B,)``.
        loss: the objective at ``x_adv`` on the original model: ``(B,)``.
        cost: example-forwards and example-backwards spent on each example: integers ``(B, 2)``.
        score: score of ``x_adv`` ``(B,)``, see `advreg.tasks.Task`; None where it is 1 or 0, as ``broken`` shows.

    Example:
        >>> x, no = torch.zeros(2, 4), torch.zeros(2)
        >>> AttackResult(x, torch.tensor([True, False]), no, no, torch.tensor([[4, 1], [9, 6]]))
        AttackResult(n=2, broken=1, forwards=13, backwards=7)
    """

    x_adv: Tensor
    broken: Tensor
    distance: Tensor
    loss: Tensor
    cost: Tensor
    score: Tensor | None = field(default=None, kw_only=True)

    @property
    def worth(self) -> Tensor:
        """Score of each example ``(B,)``: in [0, 1], or booleans where it is 1 or 0."""
        return ~self.broken if self.score is None else self.score

    @property
    def forwards(self) -> int:
        """Example-forwards spent, verification included."""
        return int(self.cost[:, 0].sum())

    @property
    def backwards(self) -> int:
        """Example-backwards spent."""
        return int(self.cost[:, 1].sum())

    @property
    def robust_accuracy(self) -> float:
        """Share of examples that survive."""
        return 1.0 - float(self.broken.double().mean())

    def __repr__(self) -> str:
        n, broken = len(self.broken), int(self.broken.sum())
        return f"AttackResult(n={n}, broken={broken}, forwards={self.forwards}, backwards={self.backwards})"

    def select(self, rows: Tensor) -> AttackResult:
        """Return the result of these rows."""
        values = (self.x_adv, self.broken, self.distance, self.loss, self.cost)
        selected = AttackResult(*(value[rows] for value in values))
        return selected if self.score is None else replace(selected, score=self.score[rows])

    def improved_by(self, other: AttackResult, rows: Tensor) -> AttackResult:
        """Return the worst case of this result and of another attack on some of its rows; the costs are added.

        Args:
            other: the result of an attack on these rows.
            rows: positions of the attacked examples in the batch ``(R,)``.

        Returns:
            For each example a broken point before a robust one (the lower score), then the point of higher loss.
        """
        before = self.select(rows)
        worth, theirs = before.worth, other.worth
        better = (theirs < worth) | ((theirs == worth) & (other.loss > before.loss))
        winners = rows[better]
        merged = {name: getattr(self, name).clone() for name in ("x_adv", "broken", "distance", "loss", "cost")}
        for name in ("x_adv", "broken", "distance", "loss"):
            merged[name][winners] = getattr(other, name)[better]
        merged["cost"][rows] += other.cost
        if self.score is not None or other.score is not None:
            merged["score"] = self.worth.to(torch.promote_types(self.worth.dtype, theirs.dtype), copy=True)
            merged["score"][winners] = theirs[better].to(merged["score"].dtype)
        return replace(self, **merged)


def concatenate(parts: list[AttackResult]) -> AttackResult:
    """Return the result of consecutive parts of a batch as one.

    Args:
        parts: results of consecutive parts.

    Returns:
        The result of all examples.
    """
    names = ("x_adv", "broken", "distance", "loss", "cost")
    joined = AttackResult(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
    if all(part.score is None for part in parts):
        return joined
    return replace(joined, score=torch.cat([part.worth.to(part.loss.dtype) for part in parts]))

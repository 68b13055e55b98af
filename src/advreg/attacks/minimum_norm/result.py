"""What a minimum-norm attack returns: an attack's result, and the nearest point at which the model is fooled at all."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from advreg.attacks.result import AttackResult


@dataclass(frozen=True, repr=False)
class MinimalResult(AttackResult):
    """An `AttackResult` (``x_adv`` inside the threat model, ``broken``, ...) that also knows the way to the boundary.

    Attributes:
        nearest: the nearest point found that fools the original model, however far; ``x`` where none was: ``(B, ...)``.
        minimal: its distance from ``x`` in float64; 0 for a clean error, inf where no such point was found: ``(B,)``.
    """

    nearest: Tensor
    minimal: Tensor

    @property
    def found(self) -> Tensor:
        """Whether any point was found that fools the original model, ``(B,)``."""
        return torch.isfinite(self.minimal)

    def __repr__(self) -> str:
        n, broken, found = len(self.minimal), int(self.broken.sum()), int(self.found.sum())
        middle = float(self.minimal.quantile(0.5, interpolation="nearest"))
        cost = f"forwards={self.forwards}, backwards={self.backwards}"
        return f"MinimalResult(n={n}, broken={broken}, found={found}, median={middle:.6g}, {cost})"

    def select(self, rows: Tensor) -> MinimalResult:
        """Return the result of these rows."""
        return MinimalResult(*(getattr(self, field.name)[rows] for field in fields(self)))


def concatenate_minimal(parts: list[MinimalResult]) -> MinimalResult:
    """Join the results of consecutive parts of a batch."""
    names = [field.name for field in fields(MinimalResult)]
    return MinimalResult(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

"""Results of minimum-norm attacks: an attack's result, plus the nearest misclassified point at any distance."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from advreg._deprecation import renamed_attribute
from advreg.attacks.result import AttackResult


@dataclass(frozen=True, repr=False)
class MinimalResult(AttackResult):
    """An `AttackResult` that also has the nearest misclassified point found, inside the threat model or not.

    Attributes:
        closest_adv: the nearest point found that the original model misclassifies; ``x`` if none was: ``(B, ...)``.
        min_distance: its distance from ``x`` in float64; 0 for a clean error, inf if no point was found: ``(B,)``.
    """

    closest_adv: Tensor
    min_distance: Tensor

    nearest = renamed_attribute("MinimalResult.nearest", "closest_adv")
    minimal = renamed_attribute("MinimalResult.minimal", "min_distance")

    @property
    def found(self) -> Tensor:
        """Whether any point was found that the original model misclassifies, ``(B,)``."""
        return torch.isfinite(self.min_distance)

    def __repr__(self) -> str:
        n, broken = len(self.min_distance), int(self.broken.sum())
        found = int(self.found.sum())
        median = float(self.min_distance.quantile(0.5, interpolation="nearest"))
        cost = f"forwards={self.forwards}, backwards={self.backwards}"
        return f"MinimalResult(n={n}, broken={broken}, found={found}, median={median:.6g}, {cost})"

    def select(self, rows: Tensor) -> MinimalResult:
        """Return the result of these rows."""
        return MinimalResult(*(getattr(self, name)[rows] for name in _columns()))


def concatenate_minimal(parts: list[MinimalResult]) -> MinimalResult:
    """Return the result of consecutive parts of a batch as one.

    Args:
        parts: results of consecutive parts.

    Returns:
        The result of all examples.
    """
    return MinimalResult(*(torch.cat([getattr(part, name) for part in parts]) for name in _columns()))


def _columns() -> list[str]:
    """Return the names of the fields with a value for each example; classification has no scores."""
    return [field.name for field in fields(MinimalResult) if field.name != "score"]

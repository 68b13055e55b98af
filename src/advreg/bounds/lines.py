"""Lines below and above an activation on an interval, and what they make of linear functions of its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class Lines:
    """Lines ``slope z + shift`` below and above an activation, each of the shape of ``z``; a shift may be one number."""

    below: Tensor
    below_shift: Tensor | float
    above: Tensor
    above_shift: Tensor | float

    def map(self, change: Callable[[Tensor], Tensor]) -> Lines:
        """Return the lines with every tensor changed, as by a selection of places."""
        values = (getattr(self, each.name) for each in fields(self))
        return Lines(*(change(value) if isinstance(value, Tensor) else value for value in values))

    def pull_back(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return a lower bound of linear functions of the activation as functions of its input.

        Positive coefficients take the line below, negative ones the line above.

        Args:
            rows: coefficients ``(..., R, *shape)``, where the lines are ``(R, *shape)``.

        Returns:
            Coefficients of the same shape, and constants ``(..., R)``.
        """
        positive, negative = rows.clamp_min(0.0), rows.clamp_max(0.0)
        axes = tuple(range(rows.ndim - self.below.ndim + 1, rows.ndim))
        parts = ((positive, self.below_shift), (negative, self.above_shift))
        constants = [(part * shift).sum(axes) for part, shift in parts if isinstance(shift, Tensor) or shift]
        total = sum(constants, rows.new_zeros(rows.shape[: axes[0]]))
        return positive * self.below + negative * self.above, total

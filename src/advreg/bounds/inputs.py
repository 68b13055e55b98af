"""The valid inputs around a batch of examples: their intervals, and the least value of a linear function over them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from advreg.bounds.interval import Interval
from advreg.threat import ThreatModel


@dataclass(frozen=True)
class InputSet:
    """The points within the threat model around each example.

    Attributes:
        x: clean inputs ``(B, ...)`` inside the box.
        threat: norm, eps (one for each example at most) and box.
    """

    x: Tensor
    threat: ThreatModel

    @cached_property
    def interval(self) -> Interval:
        """Ends of the inputs ``(B, ...)``."""
        return self.threat.interval(self.x)

    def minimise(self, rows: Tensor, examples: Tensor) -> Tensor:
        """Return the least value of each linear function over the valid inputs of its example.

        Args:
            rows: coefficients ``(R, ...)``.
            examples: example of each row ``(R,)``.
        """
        return self.threat.select(examples).minimise(rows, self.x[examples])

    def select(self, rows: Tensor) -> InputSet:
        """Return the sets of these examples."""
        return InputSet(self.x[rows], self.threat.select(rows))

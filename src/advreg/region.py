"""The set of valid points around given clean inputs, prepared once so that a loop can project onto it at every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from torch import Tensor


class Region(Protocol):
    """The valid points of each row of a batch, as `advreg.threat.ThreatModel.region` returns them."""

    def project(self, a: Tensor) -> Tensor:
        """Return the valid point nearest to each ``a (B, ...)``."""

    def select(self, rows: Tensor) -> Region:
        """Return the region of these rows of the batch."""


@dataclass(frozen=True)
class Interval:
    """All points with ``low <= a <= high`` in every coordinate.

    Attributes:
        low, high: lowest and highest valid values ``(B, ...)``, box included.

    Example:
        >>> import torch
        >>> Interval(torch.zeros(1, 2), torch.ones(1, 2)).project(torch.tensor([[-1.0, 0.5]])).tolist()
        [[0.0, 0.5]]
    """

    low: Tensor
    high: Tensor

    def project(self, a: Tensor) -> Tensor:
        """Return the valid point nearest to each ``a (B, ...)``."""
        return a.clamp(self.low, self.high)

    def select(self, rows: Tensor) -> Interval:
        """Return the region of these rows of the batch."""
        return Interval(self.low[rows], self.high[rows])


@dataclass(frozen=True)
class Ball:
    """All points inside the box and within ``radius`` of ``x``, in the norm of a projection.

    Attributes:
        x: clean inputs ``(B, ...)``.
        radius: radii ``(B, 1)``, less what rounding can add.
        box: lowest and highest valid value.
        onto: projection of offsets ``(B, n)``, a function of `advreg.projections`.
    """

    x: Tensor
    radius: Tensor
    box: tuple[float, float]
    onto: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

    def project(self, a: Tensor) -> Tensor:
        """Return the valid point nearest to each ``a (B, ...)``."""
        low, high = self.box
        center = self.x.flatten(1)
        offset = self.onto(a.flatten(1) - center, low - center, high - center, self.radius)
        return (self.x + offset.view_as(self.x)).clamp(low, high)

    def select(self, rows: Tensor) -> Ball:
        """Return the region of these rows of the batch."""
        return Ball(self.x[rows], self.radius[rows], self.box, self.onto)


class Projects(Protocol):
    """A threat model that projects, and selects rows."""

    def project(self, a: Tensor, x: Tensor) -> Tensor:
        """Return the valid point nearest to each ``a (B, ...)``."""

    def select(self, rows: Tensor) -> Self:
        """Return the threat model of these rows of the batch."""


@dataclass(frozen=True)
class ByProject:
    """The valid points of a threat model that overrides ``project``; nothing is prepared."""

    threat: Projects
    x: Tensor

    def project(self, a: Tensor) -> Tensor:
        """Return the valid point nearest to each ``a (B, ...)``."""
        return self.threat.project(a, self.x)

    def select(self, rows: Tensor) -> Region:
        """Return the region of these rows of the batch."""
        return ByProject(self.threat.select(rows), self.x[rows])

"""Windows of inputs for Square: their size, their cells, and the bumps that fill them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def window_share(window: int, p: float = 0.8, budget: int | None = None) -> float:
    """Return the share of the input that a window covers: ``p``, halved after 10, 50, 200, 500, 1000, ... windows.

    Args:
        window: number of windows tried before this one.
        p: share of the first window.
        budget: number of windows in all, to rescale the schedule for 10,000 windows; None for the schedule as it is, which
            AutoAttack uses with its 5,000 queries.

    Returns:
        A share in (0, 1].

    Example:
        >>> window_share(10), window_share(11), window_share(4999)
        (0.8, 0.4, 0.00625)
    """
    age = window if budget is None else window * 10_000 // budget
    return float(p / 2 ** sum(age > after for after in _HALVED_AFTER))


@dataclass(frozen=True)
class WindowGrid:
    """An input as ``channels`` planes of ``height x width`` cells; a vector is one plane of height 1.

    Example:
        >>> WindowGrid.of(torch.zeros(5, 3, 28, 20)), WindowGrid.of(torch.zeros(5, 30)).window(0.2)
        (WindowGrid(channels=3, height=28, width=20), (1, 6))
    """

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, x: Tensor) -> WindowGrid:
        """Return the grid of a batch ``(B, n)``, ``(B, C, n)`` or ``(B, C, ..., H, W)``."""
        shape = x.shape[1:]
        channels = shape[0] if len(shape) > 1 else 1
        return cls(channels, x[0].numel() // (channels * shape[-1]), shape[-1])

    @property
    def cells(self) -> int:
        """Number of cells in one plane."""
        return self.height * self.width

    def planes(self, x: Tensor) -> Tensor:
        """Return a batch as ``(B, channels, cells)``."""
        return x.reshape(len(x), self.channels, self.cells)

    def window(self, share: float) -> tuple[int, int]:
        """Return height and width of a window that covers this share: a square if it fits, else a rectangle."""
        area = share * self.cells
        side = max(round(area**0.5), 1)
        if side > self.height:
            return self.height, min(round(area / self.height), self.width)
        if side > self.width:
            return min(round(area / self.width), self.height), self.width
        return side, side

    def odd_window(self, share: float) -> tuple[int, int]:
        """Return height and width of a window for bumps: odd and at least 3, as published, and inside the plane.

        Example:
            >>> WindowGrid.of(torch.zeros(5, 1, 28, 28)).odd_window(0.02), WindowGrid.of(torch.zeros(5, 30)).odd_window(0.2)
            ((5, 5), (1, 7))
        """
        height, width = (max(side, 3) // 2 * 2 + 1 for side in self.window(share))
        return min(height, self.height), min(width, self.width)

    def place(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the cells of a window of this size for each example: ``(B, 1, height * width)``.

        Args:
            u: position of the window, two numbers in [0, 1) for each example ``(B, 2)``.
            size: height and width of the window.
        """
        top = (u[:, 0] * (self.height - size[0] + 1)).long()
        left = (u[:, 1] * (self.width - size[1] + 1)).long()
        down, right = (torch.arange(n, device=u.device) for n in size)
        offsets = (down[:, None] * self.width + right).flatten()
        return ((top * self.width + left)[:, None] + offsets)[:, None]


def take(planes: Tensor, cells: Tensor) -> Tensor:
    """Return the values of ``planes (B, C, n)`` in the cells ``(B, 1, k)``.

    Args:
        planes: values ``(B, C, n)``.
        cells: cell numbers ``(B, 1, k)``.

    Returns:
        Values ``(B, C, k)``.
    """
    return planes.gather(2, cells.expand(-1, planes.shape[1], -1))


def put(planes: Tensor, cells: Tensor, values: Tensor | float) -> Tensor:
    """Return ``planes (B, C, n)`` with other values in the cells ``(B, 1, k)``.

    Args:
        planes: values ``(B, C, n)``.
        cells: cell numbers ``(B, 1, k)``.
        values: new values ``(B, C, k)``, or one number.

    Returns:
        Values ``(B, C, n)``.
    """
    index = cells.expand(-1, planes.shape[1], -1)
    filled = values if isinstance(values, Tensor) else planes.new_full((), values).expand(index.shape)
    return planes.scatter(2, index, filled)


def _rings(height: int, width: int, falloff: int) -> Tensor:
    """Return concentric rings that rise towards the centre: ring ``m`` has height ``sum_{j >= m} (j + 1)^-falloff``."""
    down = (torch.arange(height) - height // 2).abs()
    right = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(down[:, None], right[None])
    terms = (torch.arange(int(ring.max()) + 1, dtype=torch.float64) + 1) ** -falloff
    return terms.flip(0).cumsum(0).flip(0)[ring]


@cache
def bumps(height: int, width: int, order: int = 2) -> Tensor:
    """Return two patterns ``(2, height * width)`` of unit length: two opposite bumps, side by side or stacked.

    Args:
        height: height of the window.
        width: width of the window.
        order: 2 for l2, or 1 for l1, with steeper bumps: rings fall off by the fourth power instead of the second.

    Returns:
        The two patterns, flattened, ``(2, height * width)``.

    Example:
        >>> bumps(3, 5).shape, bumps(3, 5).norm(dim=1).tolist()
        (torch.Size([2, 15]), [1.0, 1.0])
    """
    patterns = []
    for first_axis in (0, 1):
        axis = first_axis if (height, width)[first_axis] > 1 else 1 - first_axis
        length = (height, width)[axis]
        halves = [n for n in (length // 2, length - length // 2) if n]
        parts = [_rings(*((n, width) if axis == 0 else (height, n)), 2 if order == 2 else 4) for n in halves]
        signed = [part / part.norm(p=order) * (1 - 2 * k) for k, part in enumerate(parts)]
        whole = torch.cat(signed, axis).flatten()
        patterns.append(whole / whole.norm(p=order))
    return torch.stack(patterns)

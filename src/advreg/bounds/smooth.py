"""Lines around smooth activations (sigmoid, tanh, SiLU, GELU), sound for any function with a bounded second derivative."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from advreg.bounds.lines import Lines

_PIECES = 64
_TANGENTS = (0, 16, 32, 48, 64)
"""Grid points at which the slopes of candidate lines are taken; the chord is one more."""
_ENTRIES = 2**16
"""Intervals on a grid at once."""


def smooth_lines(low: Tensor, high: Tensor, run: Callable[[Tensor], Tensor], curvature: float) -> Lines:
    """Return lines below and above a function on ``[low, high]``, those of several slopes that lie closest to it.

    A line of slope ``s`` is above where its shift is at least ``max f(z) - s z``. Between two points of a grid of width ``h``
    the maximum exceeds that of the points by ``sup|f''| h^2 / 8`` at most, so a grid gives a shift that is sound for every
    slope. The slope is the one with the smallest area: the chord, or one of five tangents.

    Args:
        low: lower ends of the intervals.
        high: upper ends.
        run: the function.
        curvature: the largest magnitude of its second derivative.

    Returns:
        The lines, of the shape of the intervals; constants without gradients.

    Example:
        >>> lines = smooth_lines(torch.tensor([0.0]), torch.tensor([2.0]), torch.tanh, 0.77)
        >>> z = torch.linspace(0, 2, 5)
        >>> bool((lines.below * z + lines.below_shift <= torch.tanh(z)).all())
        True
    """
    with torch.no_grad():
        lows, highs = (torch.split(end.detach().flatten(), _ENTRIES) for end in (low, high))
        parts = [_lines(*pair, run, curvature) for pair in zip(lows, highs, strict=True)]
    whole = (torch.cat(column).view_as(low) for column in zip(*parts, strict=True))
    return Lines(*whole)


def _lines(low: Tensor, high: Tensor, run: Callable[[Tensor], Tensor], curvature: float) -> tuple[Tensor, ...]:
    """Return slopes and shifts below and above, for intervals ``(M,)``."""
    width, middle = high - low, (low + high) / 2
    z = low + width * torch.linspace(0.0, 1.0, _PIECES + 1, dtype=low.dtype, device=low.device)[:, None]
    value, step = run(z), width / _PIECES
    error = curvature * step**2 / 8 + _rounding(low, high)
    slopes = _slopes(value, step)
    excess = [value - slope * z for slope in slopes]
    above = torch.stack([each.amax(0) + error for each in excess])
    below = torch.stack([each.amin(0) - error for each in excess])
    tops, bottoms = above + slopes * middle, below + slopes * middle
    best_above, best_below = tops.argmin(0, keepdim=True), bottoms.argmax(0, keepdim=True)

    def pick(table: Tensor, best: Tensor) -> Tensor:
        return table.gather(0, best)[0]

    return (
        pick(slopes, best_below),
        pick(below, best_below),
        pick(slopes, best_above),
        pick(above, best_above),
    )


def _slopes(value: Tensor, step: Tensor) -> Tensor:
    """Return the slopes of the candidate lines ``(S, M)`` from values on the grid; 0 where the interval is too narrow."""
    chord = (value[-1] - value[0]) / (_PIECES * step)
    ends = [(max(k - 1, 0), min(k + 1, _PIECES)) for k in _TANGENTS]
    tangents = [(value[after] - value[before]) / ((after - before) * step) for before, after in ends]
    wide = _PIECES * step > torch.finfo(value.dtype).eps ** 0.5
    return torch.where(wide, torch.stack([chord, *tangents]), 0.0)


def _rounding(low: Tensor, high: Tensor) -> Tensor:
    """Return what rounding adds to ``f(z) - s z`` at most."""
    return 8 * torch.finfo(low.dtype).eps * (1 + low.abs().maximum(high.abs()))

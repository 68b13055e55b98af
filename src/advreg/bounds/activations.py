"""Activations: the interval of their values, and lines below and above them on an interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg.bounds.lines import Lines
from advreg.bounds.smooth import smooth_lines

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """A function of each value that rises, or falls down to a valley and rises from there.

    Attributes:
        run: the function.
        lines: ``(low, high, slope) -> Lines``: slope of the line below where the interval is unstable, None for the usual one.
        unstable: ``(low, high) -> booleans``: where no line is exact.
        leak: slope for negative values of a ReLU or leaky ReLU; None for smooth functions.
        valley: where the function is least; None where it rises everywhere.
    """

    run: Callable[[Tensor], Tensor]
    lines: Callable[[Tensor, Tensor, Tensor | None], Lines]
    unstable: Callable[[Tensor, Tensor], Tensor]
    leak: float | None = None
    valley: float | None = None

    def __call__(self, value: Tensor) -> Tensor:
        """Return the value of the activation."""
        return self.run(value)

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the largest value on ``[low, high]``."""
        if self.valley is None:
            return self.run(low), self.run(high)
        least = self.run(low.new_tensor(self.valley).clamp(low, high))
        return least - 8 * torch.finfo(low.dtype).eps, self.run(low).maximum(self.run(high))


def relu_lines(low: Tensor, high: Tensor, slope: Tensor | None = None, leak: float = 0.0) -> Lines:
    """Return the lines of ``max(z, leak z)`` on ``[low, high]``: exact where the sign of ``z`` is known.

    Otherwise the chord is above, and below is any line through 0 with a slope between ``leak`` and 1.

    Args:
        low: lower ends of the intervals.
        high: upper ends.
        slope: slopes of the lines below ``(...)``; by default 1 where ``high > -low``, else ``leak``.
        leak: slope for negative values, below 1.

    Returns:
        The lines, of the shape of the intervals.

    Example:
        >>> lines = relu_lines(torch.tensor([-1.0]), torch.tensor([3.0]))
        >>> lines.below.item(), lines.above.item(), lines.above_shift.item()
        (1.0, 0.75, 0.75)
    """
    active, inactive = low >= 0, high <= 0
    width = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
    chord = (high - leak * low) / width
    shift = (leak - chord) * low  # the chord passes through (low, leak low)
    if slope is None:
        slope = torch.where(high > -low, 1.0, leak)
    slope = slope.clamp(leak, 1.0)  # a gentler line would lie above the function for negative values
    exact, stable = torch.where(active, 1.0, leak).to(low.dtype), active | inactive
    below, above = torch.where(stable, exact, slope), torch.where(stable, exact, chord)
    return Lines(below, 0.0, above, torch.where(stable, 0.0, shift))


def _unstable(low: Tensor, high: Tensor) -> Tensor:
    return (low < 0) & (high > 0)


def _relu(*_: Any) -> Activation:
    return Activation(torch.relu, relu_lines, _unstable, 0.0)


def _leaky_relu(leak: float = 0.01) -> Activation:
    def lines(low: Tensor, high: Tensor, slope: Tensor | None) -> Lines:
        return relu_lines(low, high, slope, leak)

    return Activation(lambda z: torch.nn.functional.leaky_relu(z, leak), lines, _unstable, leak)


def _smooth(run: Callable[[Tensor], Tensor], curvature: float, valley: float | None = None) -> Activation:
    def lines(low: Tensor, high: Tensor, slope: Tensor | None) -> Lines:
        return smooth_lines(low, high, run, curvature)

    return Activation(run, lines, lambda low, high: high > low, valley=valley)


def _gelu(approximate: str = "none") -> Activation:
    return _smooth(partial(F.gelu, approximate=approximate), 0.8, -0.7517915 if approximate == "none" else -0.7524614)


ACTIVATIONS: dict[Any, Callable[..., Activation]] = {
    aten.relu.default: _relu,
    aten.leaky_relu.default: _leaky_relu,
    aten.sigmoid.default: lambda: _smooth(torch.sigmoid, 0.0963),
    aten.tanh.default: lambda: _smooth(torch.tanh, 0.77),
    aten.silu.default: lambda: _smooth(F.silu, 0.5, -1.2784645),
    aten.gelu.default: _gelu,
}
"""ATen operations with known bounds."""

"""Activations: the interval of their values, and lines below and above them on an interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


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


@dataclass(frozen=True)
class Activation:
    """A monotone function of each value.

    Attributes:
        run: the function.
        lines: ``(low, high, slope) -> Lines``: slope of the line below where the interval is unstable, None for the usual one.
        unstable: ``(low, high) -> booleans``: where no line is exact.
        leak: slope for negative values of a ReLU or leaky ReLU; None for smooth functions.
    """

    run: Callable[[Tensor], Tensor]
    lines: Callable[[Tensor, Tensor, Tensor | None], Lines]
    unstable: Callable[[Tensor, Tensor], Tensor]
    leak: float | None = None

    def __call__(self, value: Tensor) -> Tensor:
        """Return the value of the activation."""
        return self.run(value)


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


def sigmoid_lines(low: Tensor, high: Tensor, run: Callable[[Tensor], Tensor]) -> Lines:
    """Return lines around a function that is convex below 0, concave above and odd about its centre: sigmoid and tanh.

    Where the interval has one curvature, a chord is on one side and the tangent at the middle on the other. Otherwise both
    lines have the smaller of the slopes at the ends, which the slope inside exceeds, and pass through the ends.

    Args:
        low: lower ends of the intervals.
        high: upper ends.
        run: the function.
    """
    with torch.enable_grad():
        ends = [end.detach().requires_grad_() for end in (low, high, (low + high) / 2)]
        values = [run(end) for end in ends]
        steep = [torch.autograd.grad(value.sum(), end)[0] for value, end in zip(values, ends, strict=True)]
    at_low, at_high, at_middle = (value.detach() for value in values)
    middle = (low + high) / 2
    wide = high - low > 1e-6
    chord = torch.where(wide, (at_high - at_low) / (high - low).clamp_min(1e-6), torch.minimum(steep[0], steep[1]))
    gentle = torch.minimum(steep[0], steep[1])
    convex, concave = (high <= 0) & wide, (low >= 0) & wide
    below = torch.where(convex, steep[2], torch.where(concave, chord, gentle))
    above = torch.where(convex, chord, torch.where(concave, steep[2], gentle))
    below_shift = torch.where(convex, at_middle - below * middle, at_low - below * low)
    above_shift = torch.where(concave, at_middle - above * middle, at_high - above * high)
    error = 8 * torch.finfo(low.dtype).eps
    return Lines(below, below_shift - error, above, above_shift + error)


def _smooth(run: Callable[[Tensor], Tensor]) -> Callable[..., Activation]:
    def lines(low: Tensor, high: Tensor, slope: Tensor | None) -> Lines:
        return sigmoid_lines(low, high, run)

    return lambda *_: Activation(run, lines, lambda low, high: torch.zeros_like(low, dtype=torch.bool))


ACTIVATIONS: dict[Any, Callable[..., Activation]] = {
    aten.relu.default: _relu,
    aten.leaky_relu.default: _leaky_relu,
    aten.sigmoid.default: _smooth(torch.sigmoid),
    aten.tanh.default: _smooth(torch.tanh),
}
"""ATen operations with known bounds."""

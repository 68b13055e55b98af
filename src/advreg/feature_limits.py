"""Limits of single features: a unit for each (0: immovable, inf: free), a box for each, and one-sided changes.

Everything is a change of variables: ``u = (a - x) / scale`` is measured, projected and stepped in, coordinate by coordinate
inside ``low <= a <= high``. Offsets are computed in float64 and rounded toward the clean value, so a rounded point is never
farther away than the exact one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advreg.errors import DataError, ThreatError
from advreg.example_rng import Stream, uniform
from advreg.norms import MINIMUM, ORDER, PROJECT, broadcast_per_example, draw_in_ball, steepest_direction
from advreg.region import Interval, Region

_ROUNDING = 1e-12
"""Share of eps that covers the rounding of float64 sums."""
_FREE_STREAM = 1 << 40
"""Stream of the draws of free features, apart from those of the ball."""


@dataclass(frozen=True)
class FeatureLimits:
    """What each feature may do, for one example; every tensor broadcasts to one example ``(...)``.

    Attributes:
        norm: norm in which changes are measured, in units of ``scale``.
        scale: unit of each feature: 0 immovable, inf free inside the box and not counted; None: 1 for all.
        low, high: lowest and highest valid value of each feature.
        one_sided: 1 where a value may only rise, -1 where it may only fall, 0 where both; None: 0 for all.
        relative: whether units are multiplied by the length of each example without its mean, as in a signal-to-noise ratio.
    """

    norm: str
    scale: Tensor | None
    low: Tensor
    high: Tensor
    one_sided: Tensor | None = None
    relative: bool = False

    def units(self, x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the unit of each feature ``(1, ...)`` for a batch like ``x (B, ...)``.

        Raises:
            DataError: a scale that does not fit an example.
        """
        one = torch.ones((), dtype=dtype) if self.scale is None else self.scale
        scale = _like_example(one, x, "scale").to(dtype)
        return scale * broadcast_per_example(signal_length(x).to(dtype), x) if self.relative else scale

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lowest and highest value of each coordinate of each example, in the dtype of ``x``.

        Raises:
            DataError: limits that do not fit an example.
        """
        low, high = (_like_example(end, x, "box").to(x.dtype).expand_as(x) for end in (self.low, self.high))
        if self.one_sided is not None:
            side = _like_example(self.one_sided, x, "one_sided")
            low, high = torch.where(side > 0, x.maximum(low), low), torch.where(side < 0, x.minimum(high), high)
        fixed = self.units(x) == 0
        return torch.where(fixed, x, low), torch.where(fixed, x, high)

    def distance(self, a: Tensor, x: Tensor) -> Tensor:
        """Return ``||(a - x) / scale||`` in float64, ``(B,)``; infinite if an immovable value moved."""
        scale, offset = self.units(x), a.double() - x.double()
        counted = (scale > 0) & torch.isfinite(scale)
        u = torch.where(counted, offset / torch.where(counted, scale, 1.0), 0.0)
        length: Tensor = torch.linalg.vector_norm(u.flatten(1), ord=ORDER[self.norm], dim=1)
        moved = ((scale == 0) & (a != x)).flatten(1).any(1)
        return torch.where(moved, torch.inf, length)

    def are_inside(self, a: Tensor, x: Tensor, tol: float) -> Tensor:
        """Return whether every value of each ``a`` is within its limits around ``x``, ``(B,)``.

        Args:
            a: points ``(B, ...)``.
            x: clean inputs ``(B, ...)``.
            tol: tolerance as a share of the width of each feature's box; immovable values must be equal.

        Returns:
            Booleans ``(B,)``.
        """
        low, high = (end.double() for end in self.bounds(x))
        width = (self.high.double() - self.low.double()).to(x.device)
        slack = torch.where(self.units(x) == 0, 0.0, tol * _like_example(width, x, "box"))
        point = a.double()
        return ((point >= low - slack) & (point <= high + slack)).flatten(1).all(1)

    def record(self) -> dict[str, list[float | None]]:
        """Return units and limits of the features of a table as lists, an infinite unit as None; nothing for other inputs."""
        shown = {"scale": self.scale, "low": self.low, "high": self.high}
        if any(each is not None and each.ndim != 1 for each in shown.values()):
            return {}
        values = {name: each.tolist() for name, each in shown.items() if each is not None}
        return {name: [None if v == torch.inf else v for v in each] for name, each in values.items()}

    def region(self, x: Tensor, eps: Tensor) -> Region:
        """Return the valid points around ``x (B, ...)``; ``eps`` is float64, ``()`` or ``(B,)``."""
        low, high = self.bounds(x)
        scale = self.units(x).expand_as(x)
        if self.norm == "linf":
            reach = broadcast_per_example(eps.expand(len(x)), x) * scale
            reach = torch.where(torch.isfinite(scale), reach, torch.inf)  # eps 0 leaves free features free
            return Interval(low.maximum(_inward(x, -reach)), high.minimum(_inward(x, reach)))
        return ScaledBall(self.norm, x, eps.expand(len(x))[:, None], low, high, scale)

    def interval(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return ends of intervals that contain every valid point around ``x``, rounded outward; ``eps`` as in `region`."""
        low, high = self.bounds(x)
        scale = self.units(x).expand_as(x)
        reach = broadcast_per_example(eps.expand(len(x)), x) * scale
        reach, far = torch.where(torch.isfinite(scale), reach, torch.inf), x.new_tensor(torch.inf)
        ends = [(x.double() + side * reach).to(x.dtype).nextafter(side * far) for side in (-1, 1)]
        return low.maximum(ends[0]), high.minimum(ends[1])

    def minimise(self, rows: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """Return the least value of linear functions over the valid points around ``x``, a lower bound of it in l2.

        Args:
            rows: coefficients ``(R, ...)``.
            x: clean inputs ``(R, ...)``.
            eps: radii in float64, ``()`` or ``(R,)``.

        Returns:
            Least values ``(R,)``.
        """
        low, high = (end.double() for end in self.bounds(x))
        scale = self.units(x).expand_as(x)
        center, a = x.double(), rows.double()
        counted = (scale > 0) & torch.isfinite(scale)
        unit = torch.where(counted, scale, 1.0)
        ends = [torch.where(counted, (end - center) / unit, 0.0).flatten(1) for end in (low, high)]
        inner = MINIMUM[self.norm]((a * unit).flatten(1), ends[0], ends[1], eps.expand(len(x))[:, None])
        free = torch.where(counted, 0.0, torch.minimum(a * (low - center), a * (high - center))).flatten(1).sum(1)
        return ((a * center).flatten(1).sum(1) + inner + free).to(x.dtype)

    def in_units(self, g: Tensor, x: Tensor) -> Tensor:
        """Return the gradient with respect to ``u``: ``scale * g``, and 0 where a value is free."""
        scale = self.units(x, g.dtype)
        return torch.where(torch.isfinite(scale), scale, 0.0) * g

    def from_units(self, direction: Tensor, g: Tensor, eps: float | Tensor, x: Tensor) -> Tensor:
        """Return ``scale * direction``; a step of length eps crosses the box in free features, along ``g``.

        Args:
            direction: direction in units of the features ``(B, ...)``.
            g: gradients ``(B, ...)``.
            eps: the radius, a number or ``(B, 1, ...)``.
            x: clean inputs ``(B, ...)``.

        Returns:
            Directions ``(B, ...)`` in the units of the input.
        """
        scale = self.units(x, g.dtype)
        width = _like_example(self.high - self.low, g, "box").to(g.dtype)
        crossing = g.sign() * width / torch.as_tensor(eps, dtype=g.dtype, device=g.device).clamp_min(1e-30)
        return torch.where(torch.isinf(scale), crossing, torch.where(torch.isinf(scale), 0.0, scale) * direction)

    def steepest(self, g: Tensor, a: Tensor | None, x: Tensor | None, eps: float | Tensor) -> Tensor:
        """Return the direction in which a linear function with gradient ``g`` increases fastest a unit of ``u``.

        Args:
            g: gradients ``(B, ...)``.
            a: iterates ``(B, ...)``, or None.
            x: clean inputs ``(B, ...)``; ``a`` if None.
            eps: the radius, a number or ``(B, 1, ...)``.

        Returns:
            Directions ``(B, ...)`` in the units of the input.

        Raises:
            ThreatError: relative units without clean inputs.
        """
        clean = x if x is not None else g if a is None else a
        if self.relative and x is None:
            raise ThreatError("a relative eps needs the clean inputs: steepest(g, a, x)")
        u = self.in_units(g, clean)
        if a is None or self.norm == "linf":
            return self.from_units(steepest_direction(self.norm, u), g, eps, clean)
        held = self._are_held(g, a, clean)
        if self.norm == "l1":
            return self.from_units(steepest_direction("l1", u, held.flatten(1)), g, eps, clean)
        free = torch.where(held, 0.0, u).flatten(1).norm(dim=1)
        whole = u.flatten(1).norm(dim=1).clamp_min(1e-30)
        # of length 1 in what can move; what is held is pushed too, so that the projection does not reduce it
        return self.from_units(u / broadcast_per_example(free.maximum(1e-3 * whole), u), g, eps, clean)

    def random_start(self, x: Tensor, eps: Tensor, ids: Tensor, seed: int, stream: Stream) -> Tensor:
        """Return ``x + eps * scale * u`` with uniform draws ``u`` from the unit ball; free features uniform in the box.

        Args:
            x: clean inputs ``(B, ...)``.
            eps: radii ``(B, 1, ...)`` in the dtype of ``x``.
            ids: example ids ``(B,)``.
            seed: seed of the draws.
            stream: which of several independent draws.

        Returns:
            Points ``(B, ...)`` that the caller projects.
        """
        point = self.displaced(x, eps, self._draw(x, ids, seed, stream))
        free = torch.isinf(self.units(x))
        if not bool(free.any()):
            return point
        low, high = self.bounds(x)
        u = uniform(ids, tuple(x.shape[1:]), seed, stream + _FREE_STREAM, x.dtype)
        return torch.where(free, low + (high - low) * u, point)

    def displaced(self, x: Tensor, eps: Tensor, u: Tensor) -> Tensor:
        """Return ``x + eps * scale * u``, free features unchanged; ``eps`` is ``(B, 1, ...)``."""
        scale = self.units(x, x.dtype)
        return x + eps * torch.where(torch.isfinite(scale), scale, 0.0) * u

    def _draw(self, x: Tensor, ids: Tensor, seed: int, stream: Stream) -> Tensor:
        """Return draws from the unit ball of the counted features, 0 in the others."""
        scale = self.units(x).expand_as(x)
        scale = (torch.ones_like(scale) if self.relative else scale)[:1].flatten()  # one unit for all of an example
        counted = ((scale > 0) & torch.isfinite(scale)).nonzero()[:, 0]
        u = torch.zeros_like(x).flatten(1)
        if len(counted):
            u[:, counted] = draw_in_ball(self.norm, u[:, counted], ids, seed, stream)
        return u.view_as(x)

    def _are_held(self, g: Tensor, a: Tensor, x: Tensor) -> Tensor:
        """Return which values are at their limits, up to rounding, and would leave them along ``g``."""
        low, high = self.bounds(x)
        slack = 2 * torch.finfo(a.dtype).eps * low.abs().maximum(high.abs())
        return ((a >= high - slack) & (g > 0)) | ((a <= low + slack) & (g < 0))


@dataclass(frozen=True)
class ScaledBall:
    """All points within limits, with scaled offsets within ``radius`` of ``x``.

    Attributes:
        norm: ``"l2"`` or ``"l1"``.
        x: clean inputs ``(B, ...)``.
        radius: radii ``(B, 1)`` in float64.
        low, high: limits of each value ``(B, ...)``.
        scale: unit of each value ``(B, ...)`` in float64.
    """

    norm: str
    x: Tensor
    radius: Tensor
    low: Tensor
    high: Tensor
    scale: Tensor

    def project(self, a: Tensor) -> Tensor:
        """Return the valid point nearest to each ``a (B, ...)``, in units of the features."""
        counted = (self.scale > 0) & torch.isfinite(self.scale)
        unit, center = torch.where(counted, self.scale, 1.0), self.x.double()
        given, low, high = (
            torch.where(counted, (end.double() - center) / unit, 0.0).flatten(1) for end in (a, self.low, self.high)
        )
        offset = PROJECT[self.norm](given, low, high, self.radius * (1 - _ROUNDING))
        length = torch.linalg.vector_norm(given, ord=ORDER[self.norm], dim=1, keepdim=True)
        kept = ((given >= low) & (given <= high)).all(1, keepdim=True) & (length <= self.radius)
        kept = (kept | (offset == given)).view_as(self.x) | ~counted  # what is inside comes back to the last bit
        return torch.where(kept, a, _inward(self.x, offset.view_as(self.x) * unit)).clamp(self.low, self.high)

    def select(self, rows: Tensor) -> ScaledBall:
        """Return the region of these rows of the batch."""
        parts = (self.x, self.radius, self.low, self.high, self.scale)
        return ScaledBall(self.norm, *(part[rows] for part in parts))


def signal_length(x: Tensor) -> Tensor:
    """Return the Euclidean length of each example without its mean, in float64: a constant offset is no signal.

    Args:
        x: signals ``(B, ...)``.

    Returns:
        Lengths ``(B,)``.

    Example:
        >>> signal_length(torch.tensor([[[2.0, 4.0]]])).item() == 2**0.5
        True
    """
    flat = x.double().flatten(1)
    length: Tensor = (flat - flat.mean(1, keepdim=True)).norm(dim=1)
    return length


def _inward(x: Tensor, offset: Tensor) -> Tensor:
    """Return ``x + offset`` in the dtype of ``x``, rounded toward ``x``; offsets are float64."""
    point = (x.double() + offset).to(x.dtype)
    beyond = (point.double() - x.double()).abs() > offset.abs()
    return torch.where(beyond, point.nextafter(x), point)


def _like_example(values: Tensor, x: Tensor, name: str) -> Tensor:
    """Return values of one example as ``(1, ...)`` on the device of the batch ``x (B, ...)``.

    Raises:
        DataError: a shape that does not broadcast to an example.
    """
    shape, given = tuple(x.shape[1:]), tuple(values.shape)
    fits = len(given) <= len(shape) and all(m in (1, n) for m, n in zip(given[::-1], shape[::-1], strict=False))
    if not fits:
        raise DataError(f"{name} is {given} and an example is {shape}; give one value, or one for each feature {shape}")
    return values.to(x.device).reshape(1, *[1] * (len(shape) - len(given)), *given)

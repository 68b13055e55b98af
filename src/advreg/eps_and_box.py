"""The fields ``eps`` and ``box`` of threat models: validated input forms, rows of a batch, comparison by value."""

from __future__ import annotations

import copy
import hashlib
import math
from dataclasses import fields
from fractions import Fraction
from typing import Any, Self

import torch
from torch import Tensor

from advreg.errors import ThreatError, did_you_mean
from advreg.norms import NORMS


def _radii_of(eps: object) -> float | Tensor:
    """Return eps as a number, or as a tensor ``(B,)`` or ``(B, 1)``.

    Raises:
        ThreatError: anything else.
    """
    try:
        if isinstance(eps, str):
            return float(Fraction(eps))
        values = eps if isinstance(eps, Tensor) else torch.as_tensor(eps, dtype=torch.float64)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError):
        raise ThreatError(f"eps is {eps!r}; give a finite number >= 0, or a tensor (B,) of them") from None
    if not values.ndim:
        return float(values)
    if values.ndim > 2 or (values.ndim == 2 and values.shape[1] != 1):
        raise ThreatError(f"eps is {tuple(values.shape)}; give a number, or one radius for each example (B,) or (B, 1)")
    return values


def _box_of(box: object) -> tuple[float, float]:
    """Return a box as two numbers.

    Raises:
        ThreatError: anything else.
    """
    try:
        ends = [float(end) for end in box]  # type: ignore[attr-defined]  # a box without entries raises TypeError
    except (ValueError, TypeError):
        ends = []
    if len(ends) != 2:
        raise ThreatError(f"box is {box!r}; give two numbers, the lowest and highest valid value")
    return ends[0], ends[1]


def check_ball(norm: str, eps: float | Tensor, box: tuple[float, float], *, scaled: bool) -> None:
    """Raise unless norm, radii and box describe a ball.

    Args:
        norm: name of the norm.
        eps: a number, or one for each example ``(B,)``.
        box: lowest and highest valid value.
        scaled: whether eps is in units of features, so that the width of the box says nothing about it.

    Raises:
        ThreatError: unknown norm, an empty or infinite box, negative or non-finite eps, in linf an eps wider than the box.

    Example:
        >>> check_ball("linf", 0.3, (0.0, 1.0), scaled=False)
    """
    if norm not in NORMS:
        known = ", ".join(NORMS)
        raise ThreatError(f"norm is {norm!r}; allowed: {known}.{did_you_mean(str(norm), NORMS)}")
    low, high = box
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ThreatError(f"box is ({low:g}, {high:g}); give finite ends, as wide as the input needs: (-1e3, 1e3)")
    if not low < high:
        raise ThreatError(f"box is ({low}, {high}); its first value must be below its second")
    radii = torch.as_tensor(eps, dtype=torch.float64)
    if not bool((torch.isfinite(radii) & (radii >= 0)).all()):
        raise ThreatError(f"eps is {eps}; give a finite number >= 0, or a tensor (B,) of them")
    if norm == "linf" and not scaled and bool((radii > (high - low) * (1 + 1e-9)).any()):
        raise ThreatError(
            f"eps is {float(radii.max()):g}, wider than the box ({low:g}, {high:g}); "
            f"give it in the units of the input, such as 8/255 for images in [0, 1]"
        )


def read_short_form(text: str) -> tuple[str, float, tuple[float, float]]:
    """Return norm, eps and box of ``norm:eps`` or ``norm:eps@low,high``.

    Args:
        text: ``linf:8/255``, ``linf:8@0,255``, ...

    Returns:
        Norm, eps, and the two ends of the box.

    Raises:
        ThreatError: text of another form.

    Example:
        >>> read_short_form("linf:8@0,255")
        ('linf', 8.0, (0.0, 255.0))
    """
    norm, _, rest = text.partition(":")
    eps, at, box = rest.partition("@")
    try:
        radius = float(Fraction(eps))
        ends = [float(Fraction(end)) for end in box.split(",")] if at else [0.0, 1.0]
    except (ValueError, ZeroDivisionError):
        ends = []
    if len(ends) != 2:
        raise ThreatError(
            f"threat is {text!r}; write norm:eps, such as linf:8/255, l2:0.5 or snr:20, "
            "or norm:eps@low,high for another box than [0, 1], such as linf:8@0,255"
        )
    return norm, radius, (ends[0], ends[1])


def bounds_of(box: object) -> tuple[Tensor, Tensor] | None:
    """Return a box of one value for each feature as two float64 tensors of one shape; None for a box of two numbers.

    Args:
        box: lowest and highest values: two numbers, or two tensors, arrays or lists.

    Returns:
        Lowest and highest values, or None.

    Raises:
        ThreatError: ends of different shapes, not finite, or a lowest value above the highest.

    Example:
        >>> bounds_of(([0.0, 0.0], [1.0, 5.0]))[1].tolist(), bounds_of((0.0, 1.0))
        ([1.0, 5.0], None)
    """
    if not isinstance(box, list | tuple) or len(box) != 2 or all(not getattr(e, "__len__", None) for e in box):
        return None
    try:
        ends = [torch.as_tensor(end, dtype=torch.float64) for end in box]
        low, high = ends[0] + torch.zeros_like(ends[1]), ends[1] + torch.zeros_like(ends[0])
    except (ValueError, TypeError, RuntimeError):
        raise ThreatError(f"box is {box!r}; give two numbers, or two tensors of one shape") from None
    if not low.ndim:
        return None
    if not bool((torch.isfinite(low) & torch.isfinite(high) & (low <= high)).all()):
        raise ThreatError("box holds a lowest value above its highest, or one that is not finite; check each feature")
    return low.contiguous(), high.contiguous()


def scale_of(scale: object) -> Tensor | None:
    """Return the unit of each feature as float64: 0 immovable, inf free; None as it is.

    Raises:
        ThreatError: values that are not numbers, negative or NaN.

    Example:
        >>> scale_of([1, 0.5])
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    if scale is None:
        return None
    try:
        values = torch.as_tensor(scale, dtype=torch.float64)
    except (ValueError, TypeError, RuntimeError):
        raise ThreatError(f"scale is {scale!r}; give a number for each feature: 0 immovable, inf free") from None
    if not bool((values >= 0).all()):
        raise ThreatError("scale holds a negative number or NaN; 0 is an immovable feature, inf a free one")
    return values


def short_hash(*tensors: Tensor) -> str:
    """Return 8 hex digits of the shapes and values of tensors, for ids.

    Args:
        tensors: the tensors.

    Returns:
        8 hex digits.

    Example:
        >>> len(short_hash(torch.ones(3)))
        8
    """
    digest = hashlib.sha256()
    for each in tensors:
        digest.update(str(tuple(each.shape)).encode() + each.detach().cpu().double().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def shortest_text(number: float) -> str:
    """Return the shortest decimal or fraction, as in 8/255, that `ThreatModel.parse` reads as the same number."""
    decimal, fraction = f"{number:.6g}", Fraction(number).limit_denominator(1000)
    if float(decimal) == number:
        return decimal
    return str(fraction) if float(fraction) == number else repr(number)


def short_form(norm: str, eps: float | Tensor, box: tuple[float, float], *, relative: bool) -> str:
    """Return the text that `read_short_form` reads.

    Args:
        norm: name of the norm.
        eps: a number, or one for each example.
        box: lowest and highest valid value.
        relative: whether eps is a share of each signal's length, written as a signal-to-noise ratio in dB.

    Returns:
        ``norm:eps``, ``norm:eps@low,high`` or ``snr:dB``.

    Example:
        >>> short_form("linf", 8 / 255, (0.0, 1.0), relative=False), short_form("l2", 0.1, (-1.0, 1.0), relative=True)
        ('linf:8/255', 'snr:20@-1,1')
    """
    size = "per-example" if isinstance(eps, Tensor) else shortest_text(eps)
    if relative and not isinstance(eps, Tensor) and eps:
        norm, size = "snr", shortest_text(round(-20 * math.log10(eps), 9))
    low, high = (shortest_text(end) for end in box)
    return f"{norm}:{size}" if box == (0.0, 1.0) else f"{norm}:{size}@{low},{high}"


def eps_like(eps: float | Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return eps as a tensor on the device of ``x``; a number is filled in there, because a copy waits for a GPU.

    Args:
        eps: one radius, or one for each example ``(B,)``.
        x: inputs ``(B, ...)``.
        dtype: floating type of the result.

    Returns:
        ``()`` or ``(B,)``.

    Example:
        >>> eps_like(0.5, torch.zeros(2, 3), torch.float64)
        tensor(0.5000, dtype=torch.float64)
    """
    if isinstance(eps, Tensor):
        return eps.to(x.device, dtype)
    return torch.full((), eps, dtype=dtype, device=x.device)


class ByValue:
    """Base of frozen dataclasses with ``eps`` and ``box``: validated input forms, comparison by value."""

    def _normalise(self) -> None:
        """Convert eps to a number or a tensor ``(B,)``, and the box to two numbers."""
        radii = _radii_of(vars(self)["eps"])
        if isinstance(radii, Tensor) and radii.ndim == 2:
            object.__setattr__(self, "one_per_example", True)
            radii = radii[:, 0]
        object.__setattr__(self, "eps", radii)
        bounds = bounds_of(vars(self)["box"])
        if bounds is not None and "bounds" in vars(self):
            object.__setattr__(self, "bounds", bounds)
            object.__setattr__(self, "box", (float(bounds[0].min()), float(bounds[1].max())))
        object.__setattr__(self, "box", _box_of(vars(self)["box"]))

    def select(self, rows: Tensor) -> Self:
        """Return the threat model of these rows of the batch."""
        eps: float | Tensor = vars(self)["eps"]
        if not isinstance(eps, Tensor) or not eps.ndim:
            return self
        part = copy.copy(self)  # its radii were checked once; another check would wait for a GPU
        object.__setattr__(part, "eps", eps[rows])
        return part

    def __eq__(self, other: object) -> bool:
        return (
            self._key() == other._key() if isinstance(other, ByValue) and type(other) is type(self) else NotImplemented
        )

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        """Return the compared fields, tensors as tuples, because a tensor has no single truth value."""
        values = (getattr(self, each.name) for each in fields(self) if each.compare)  # type: ignore[arg-type]  # a dataclass
        return tuple(_comparable(value) for value in values)


def _comparable(value: Any) -> Any:
    """Return tensors, alone or in a tuple, as tuples; anything else unchanged."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), *value.flatten().tolist())
    return tuple(_comparable(v) for v in value) if isinstance(value, tuple) else value

"""The fields ``eps`` and ``box`` of threat models: validated input forms, rows of a batch, comparison by value."""

from __future__ import annotations

import copy
from dataclasses import fields
from fractions import Fraction
from typing import Any, Self

import torch
from torch import Tensor

from advreg.errors import ThreatError


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


def shortest_text(number: float) -> str:
    """Return the shortest decimal or fraction, as in 8/255, that `ThreatModel.parse` reads as the same number."""
    decimal, fraction = f"{number:.6g}", Fraction(number).limit_denominator(1000)
    if float(decimal) == number:
        return decimal
    return str(fraction) if float(fraction) == number else repr(number)


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
        return tuple((tuple(v.shape), *v.flatten().tolist()) if isinstance(v, Tensor) else v for v in values)

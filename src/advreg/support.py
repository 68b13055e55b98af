"""Least values of linear functions over the part of a ball that is inside a box: the counterpart of projections."""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 40


def linf_box(rows: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
    """Return ``min rows . d`` over ``|d_i| <= radius, low <= d <= high``: each coordinate at one of its ends.

    Args:
        rows: coefficients ``(R, n)``.
        low: offsets at which each coordinate meets the lower end of the box ``(R, n)``, 0 or less.
        high: offsets at which it meets the upper end, 0 or more.
        radius: radii ``(R, 1)``.

    Returns:
        The least values ``(R,)``.

    Example:
        >>> rows, wide = torch.tensor([[1.0, -2.0]]), torch.full((1, 2), 9.0)
        >>> linf_box(rows, -wide, wide, torch.tensor([[0.5]])).tolist()
        [-1.5]
    """
    least: Tensor = torch.minimum(rows * low.maximum(-radius), rows * high.minimum(radius)).sum(1)
    return least


def l2_box(rows: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
    """Return a lower bound of ``min rows . d`` over ``||d||_2 <= radius, low <= d <= high``, tight to rounding.

    For every ``t > 0`` the minimum over the box of ``rows . d + t/2 (||d||^2 - radius^2)`` is such a bound; bisection finds
    the ``t`` for which the minimiser ``clamp(-rows / t, low, high)`` lies on the sphere.

    Args:
        rows: coefficients ``(R, n)``.
        low: offsets at which each coordinate meets the lower end of the box ``(R, n)``, 0 or less.
        high: offsets at which it meets the upper end, 0 or more.
        radius: radii ``(R, 1)``.

    Returns:
        The least values ``(R,)``.

    Example:
        >>> rows, wide = torch.tensor([[3.0, 4.0]]), torch.full((1, 2), 9.0)
        >>> round(l2_box(rows, -wide, wide, torch.tensor([[1.0]])).item(), 4)
        -5.0
    """
    size = rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    unit = rows / size  # squares of small numbers underflow
    least, most = torch.full_like(size, 1e-9), 1 / radius.clamp_min(1e-12)  # at the latter nothing is clamped
    for _ in range(_ROUNDS):
        t = (least * most).sqrt()
        outside = (-unit / t).clamp(low, high).norm(dim=1, keepdim=True) > radius
        least, most = torch.where(outside, t, least), torch.where(outside, most, t)
    d = (-unit / most).clamp(low, high)
    bound = (unit * d).sum(1) + most[:, 0] / 2 * (d.square().sum(1) - radius[:, 0].square())
    corner = torch.minimum(unit * low, unit * high).sum(1)
    least_value: Tensor = size[:, 0] * torch.where(radius[:, 0] > 0, bound.maximum(corner), 0.0)
    return least_value


def l1_box(rows: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
    """Return ``min rows . d`` over ``||d||_1 <= radius, low <= d <= high``: the largest coefficients first, each to its end.

    Args:
        rows: coefficients ``(R, n)``.
        low: offsets at which each coordinate meets the lower end of the box ``(R, n)``, 0 or less.
        high: offsets at which it meets the upper end, 0 or more.
        radius: radii ``(R, 1)``.

    Returns:
        The least values ``(R,)``.

    Example:
        >>> rows, narrow = torch.tensor([[3.0, 4.0]]), torch.full((1, 2), 0.5)
        >>> l1_box(rows, -narrow, narrow, torch.tensor([[0.75]])).tolist()
        [-2.75]
    """
    size, order = rows.abs().sort(dim=1, descending=True)
    room = torch.where(rows > 0, -low, high).gather(1, order)
    before = room.cumsum(1) - room
    used = torch.minimum(room, (radius - before).clamp_min(0.0))
    return -(size * used).sum(1)

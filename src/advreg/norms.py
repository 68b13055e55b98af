"""The norms of threat models: steepest directions, uniform draws from the unit ball, and the functions of each norm."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from advreg import example_rng, projections, support

Norm = Literal["linf", "l2", "l1"]
NORMS: tuple[str, ...] = get_args(Norm)

PROJECT = {"l2": projections.l2_box, "l1": projections.l1_box}
MINIMUM = {"linf": support.linf_box, "l2": support.l2_box, "l1": support.l1_box}
ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}


def broadcast_per_example(values: Tensor, x: Tensor) -> Tensor:
    """Return one value for each example, shaped ``(B, 1, ...)`` to broadcast over a batch like ``x``.

    Args:
        values: one value for each example ``(B,)``, or one for all ``()``.
        x: a batch ``(B, ...)``, for the number of axes.

    Returns:
        Tensor ``(B, 1, ...)``.

    Example:
        >>> broadcast_per_example(torch.arange(2), torch.zeros(2, 3, 4)).shape
        torch.Size([2, 1, 1])
    """
    return values.reshape(-1, *[1] * (x.ndim - 1))


def steepest_direction(norm: str, g: Tensor, held: Tensor | None = None) -> Tensor:
    """Return the direction of unit norm along which a linear function with gradient ``g`` increases fastest.

    Args:
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
        g: gradients ``(B, ...)``.
        held: coordinates ``(B, n)`` that cannot move along ``g``; used in l1 only.

    Returns:
        Directions ``(B, ...)``; zero where the gradient is zero.

    Example:
        >>> steepest_direction("l1", torch.tensor([[3.0, -4.0]])).tolist()
        [[0.0, -1.0]]
    """
    if norm == "linf":
        return g.sign()
    flat = g.flatten(1)
    if norm == "l2":
        largest = flat.abs().amax(1, keepdim=True)
        scaled = flat / torch.where(largest > 0, largest, 1.0)  # squares of small numbers underflow to zero
        length: Tensor = scaled.norm(dim=1, keepdim=True)
        return (scaled / length.clamp_min(1.0)).view_as(g)
    size = flat.abs()
    held = torch.zeros_like(flat, dtype=torch.bool) if held is None else held
    top = torch.where(held, -1.0, size).argmax(1, keepdim=True)
    moving = held & (size > size.gather(1, top))
    return (flat.sign() * moving.scatter(1, top, True)).view_as(g)


def draw_in_ball(norm: str, x: Tensor, ids: Tensor, seed: int, stream: example_rng.Stream) -> Tensor:
    """Return uniform draws from the unit ball of a norm, shaped like ``x (B, ...)``.

    Args:
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
        x: a batch ``(B, ...)``, for shape and dtype.
        ids: example ids ``(B,)``.
        seed: seed of the draws.
        stream: which of several independent draws.

    Returns:
        Draws ``(B, ...)``.

    Example:
        >>> bool((draw_in_ball("l2", torch.zeros(2, 4), torch.arange(2), 0, 0).norm(dim=1) <= 1).all())
        True
    """
    shape, n = tuple(x.shape[1:]), x[0].numel()
    if norm == "linf":
        return 2 * example_rng.uniform(ids, shape, seed, stream, x.dtype) - 1
    if norm == "l2":
        gauss = example_rng.normal(ids, shape, seed, 2 * stream, x.dtype)
        length = example_rng.uniform(ids, (1,), seed, 2 * stream + 1, x.dtype).pow(1 / n)
        return steepest_direction("l2", gauss) * broadcast_per_example(length, x)
    return example_rng.uniform_l1(ids, n, seed, 2 * stream).to(x.dtype).view_as(x)


def held_by_box(g: Tensor, a: Tensor, box: tuple[float, float]) -> Tensor:
    """Return which coordinates are at a face of the box, up to rounding, and would move out of it along ``g``.

    Args:
        g: gradients ``(B, n)``.
        a: iterates ``(B, n)``.
        box: lowest and highest valid value.

    Returns:
        Booleans ``(B, n)``.

    Example:
        >>> held_by_box(torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0]]), (0.0, 1.0)).tolist()
        [[True, False]]
    """
    low, high = box
    slack = 2 * torch.finfo(a.dtype).eps * max(abs(low), abs(high))  # of ``x + (high - x)``
    return ((a >= high - slack) & (g > 0)) | ((a <= low + slack) & (g < 0))


def inner_radius(norm: str, x: Tensor, eps: Tensor, box: tuple[float, float]) -> Tensor:
    """Return eps minus the largest rounding error of ``x + offset`` in the norm, ``(B, 1)``.

    The error depends on the values that the point may have, not on the width of the box.

    Args:
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
        x: clean inputs ``(B, ...)``.
        eps: radii in float64, ``()`` or ``(B,)``.
        box: lowest and highest valid value.

    Returns:
        Radii ``(B, 1)`` in the dtype of ``x``.

    Example:
        >>> 0.49999 < inner_radius("l2", torch.ones(1, 4), torch.tensor(0.5).double(), (0.0, 1.0)).item() < 0.5
        True
    """
    unit = torch.finfo(x.dtype).eps / 2
    spread: float = {"linf": 1.0, "l2": x[0].numel() ** 0.5, "l1": float(x[0].numel())}[norm]
    eps = eps.expand(len(x))
    widest = max(abs(box[0]), abs(box[1]))
    largest = (x.flatten(1).abs().amax(1).double() + eps).clamp_max(widest)
    return (eps * (1 - 16 * unit) - unit * largest * spread).clamp_min(0.0).to(x.dtype)[:, None]

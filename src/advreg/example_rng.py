"""Random draws of each example, which depend on the seed, the example id and the stream only.

The generator is a counter passed through the SplitMix64 finaliser (Steele, Lea, Flood, OOPSLA 2014), so any draw of any
example is computed directly on any device: batch size, order, shards and resumption do not change it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_BITS = 24
"""Number of random bits, as many as a float32 represents exactly."""


def _to_signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right without sign extension; the 64-bit integers of torch are signed."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _scramble(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _to_signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _to_signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


Stream = int | Tensor
"""One stream for all examples, or one for each, integers ``(B,)``."""


def _integers(ids: Tensor, count: int, seed: int, stream: Stream) -> Tensor:
    """Return ``(B, count)`` integers of 24 random bits."""
    ids = ids.to(torch.int64)
    root = _scramble(
        torch.full((), _to_signed(seed * _GOLDEN + 1), device=ids.device)
    )  # a copy from the host would wait for the GPU
    offset = (stream + 1) * _to_signed(_GOLDEN) if isinstance(stream, Tensor) else _to_signed((stream + 1) * _GOLDEN)
    lane = _scramble(root + offset)
    key = _scramble(lane ^ _scramble(ids + _to_signed(_GOLDEN)))
    counter = torch.arange(1, count + 1, device=ids.device) * _to_signed(_GOLDEN)
    return _shift(_scramble(key[:, None] + counter), 64 - _BITS)


def uniform(
    ids: Tensor, shape: tuple[int, ...], seed: int, stream: Stream = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return numbers uniform on [0, 1), one block of ``shape`` for each example.

    Args:
        ids: example ids, integers ``(B,)``; equal ids draw equal numbers.
        shape: shape of one example's block.
        seed: seed of the run.
        stream: which of several independent draws of an example (a restart, a step, an epoch); one number, or integers
            ``(B,)``.
        dtype: floating type of the result; the values do not depend on it, up to rounding.

    Returns:
        ``(B, *shape)``, multiples of 2**-24.

    Example:
        >>> ids = torch.tensor([7, 3])
        >>> bool((uniform(ids, (5,), seed=1)[0] == uniform(ids[:1], (5,), seed=1)[0]).all())
        True
    """
    draws = _integers(ids, math.prod(shape), seed, stream)
    return (draws.to(torch.float64) * 2.0**-_BITS).to(dtype).view(len(ids), *shape)


def normal(
    ids: Tensor, shape: tuple[int, ...], seed: int, stream: Stream = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return standard normal numbers by inversion, one block of ``shape`` for each example.

    Args:
        ids: example ids, integers ``(B,)``; equal ids draw equal numbers.
        shape: shape of one example's block.
        seed: seed of the run.
        stream: which of several independent draws of an example (a restart, a step, an epoch); one number, or integers
            ``(B,)``.
        dtype: floating type of the result; the values do not depend on it, up to rounding.

    Returns:
        ``(B, *shape)``.

    Example:
        >>> normal(torch.tensor([7, 3]), (5,), seed=1).shape
        torch.Size([2, 5])
    """
    middle = (_integers(ids, math.prod(shape), seed, stream).to(torch.float64) + 0.5) * 2.0**-_BITS
    return (math.sqrt(2.0) * torch.erfinv(2.0 * middle - 1.0)).to(dtype).view(len(ids), *shape)


def signs(
    ids: Tensor, shape: tuple[int, ...], seed: int, stream: Stream = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return -1 or +1 with equal probability, one block of ``shape`` for each example.

    Args:
        ids: example ids, integers ``(B,)``; equal ids draw equal numbers.
        shape: shape of one example's block.
        seed: seed of the run.
        stream: which of several independent draws of an example (a restart, a step, an epoch); one number, or integers
            ``(B,)``.
        dtype: floating type of the result; the values do not depend on it, up to rounding.

    Returns:
        ``(B, *shape)``.

    Example:
        >>> bool((signs(torch.tensor([7, 3]), (5,), seed=1).abs() == 1).all())
        True
    """
    return torch.where(uniform(ids, shape, seed, stream) < 0.5, -1.0, 1.0).to(dtype)


def uniform_l1(ids: Tensor, n: int, seed: int, stream: Stream = 0) -> Tensor:
    """Return uniform draws from the unit l1 ball, one for each example: signed exponentials over the sum of one more.

    Args:
        ids: example ids, integers ``(B,)``; equal ids draw equal numbers.
        n: dimension.
        seed: seed of the run.
        stream: the draw uses this stream and the next one; one number, or integers ``(B,)``.

    Returns:
        ``(B, n)``, float64.

    Example:
        >>> bool((uniform_l1(torch.tensor([7, 3]), 5, seed=1).abs().sum(1) <= 1).all())
        True
    """
    draws = -torch.log1p(-uniform(ids, (n + 1,), seed, stream, torch.float64))
    shares = draws[:, :n] / draws.sum(1, keepdim=True)
    return shares * signs(ids, (n,), seed, stream + 1, torch.float64)

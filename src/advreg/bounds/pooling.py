"""Max pooling as ReLUs: ``max(a, b) = relu(a - b) + b``, pair by pair, so that every bound and exact method knows it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor

from advreg.bounds.activations import ACTIVATIONS, Activation
from advreg.bounds.affine import Affine, depthwise

aten = torch.ops.aten
Append = Callable[[str, tuple[int, ...], tuple[int, ...], Affine | Activation], int]
"""``(name, positions of the operands, shape, operation) -> position`` of a new operation of the graph."""

MAX_POOLS = (aten.max_pool2d_with_indices.default,)


def accepts(args: tuple[Any, ...]) -> bool:
    """Return whether a max pooling has no padding, no dilation and no partial windows.

    Args:
        args: arguments of the ATen operation after its input.
    """
    _, _, padding, dilation, ceil = (*args, *_DEFAULTS[len(args) :])
    return not any(padding) and all(step == 1 for step in dilation) and not ceil


def append_max_pool(append: Append, name: str, position: int, args: tuple[Any, ...], shape: tuple[int, ...]) -> int:
    """Append the operations of a max pooling over images.

    Args:
        append: appends one operation.
        name: name in the trace.
        position: of the operand ``(C, H, W)``.
        args: arguments of the ATen operation after its input: size, and stride where it is another.
        shape: shape of the result ``(C, h, w)``.

    Returns:
        Position of the result.
    """
    size, stride = args[0], (args[1] if len(args) > 1 and args[1] else args[0])
    best, *others = (
        append(name, (position,), shape, _window_value(offset, stride, shape)) for offset in product(*map(range, size))
    )
    relu = ACTIVATIONS[aten.relu.default]()
    for other in others:
        difference = append(name, (best, other), shape, _DIFFERENCE)
        excess = append(name, (difference,), shape, relu)
        best = append(name, (excess, other, best), shape, _MAXIMUM)
    return best


def _window_value(offset: tuple[int, ...], stride: tuple[int, ...], shape: tuple[int, ...]) -> Affine:
    """Return the value at one place of every window."""
    rows, columns = (
        slice(begin, begin + step * (count - 1) + 1, step)
        for begin, step, count in zip(offset, stride, shape[1:], strict=True)
    )

    def pick(value: Tensor) -> Tensor:
        return value[..., rows, columns]

    weight = torch.ones(shape[0], 1, 1, 1, dtype=torch.float64)
    return Affine(pick, pick, convolution=depthwise(weight, stride, [-begin for begin in offset]))


def _interval_of_maximum(
    excess: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], a: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    return torch.maximum(a[0], b[0]), torch.maximum(a[1], b[1])


_DEFAULTS: tuple[Any, ...] = ((), (), (0, 0), (1, 1), False)
_DIFFERENCE = Affine(lambda a, b: a - b, lambda r, s: r + s, signs=(1.0, -1.0))
_MAXIMUM = Affine(
    lambda excess, b, a: excess + b + 0 * a,
    lambda excess, b, a: excess + b + 0 * a,
    interval=_interval_of_maximum,
    signs=(1.0, 1.0, 0.0),
)

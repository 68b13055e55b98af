"""Operations that are affine in their operands: values, interval radii, and the transpose that backward bounds need."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Affine:
    """``h -> L h + b`` of one or more operands, of one shape each.

    Attributes:
        run: the operation on a batch ``(B, ...)``.
        radius: ``|L| r`` for radii of the operands.
        transpose: ``(rows (R, *out), shape of the operand) -> L^T rows`` of a single operand; None for the generic one.
        convolution: weight, bias, stride, padding, dilation and groups of a two-dimensional convolution.
        scaled: ``(factor, shift) -> Affine``: the same with a factor and a shift of each output channel ``(C,)``.
        channels: factor and shift of each channel ``(C,)``, for an operation that does nothing else.
        interval: range of the result from those of the operands, where a relation between them makes it narrower.
        pointwise: whether a result depends on the same place of a single operand alone, where their shapes are equal.
        signs: factors of the operands in a sum of several of one shape.
    """

    run: Function
    radius: Function
    transpose: Callable[[Tensor, tuple[int, ...]], Tensor] | None = None
    convolution: dict[str, Any] | None = None
    scaled: Callable[[Tensor, Tensor], Affine] | None = None
    channels: tuple[Tensor, Tensor] | None = None
    interval: Callable[..., tuple[Tensor, Tensor]] | None = None
    pointwise: bool = False
    signs: tuple[float, ...] | None = None

    def __call__(self, *values: Tensor) -> Tensor:
        """Return the value of the operation."""
        return self.run(*values)

    def backward(self, rows: Tensor, shapes: list[tuple[int, ...]]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return rows of linear functions of the operands, and their constants, from rows of linear functions of the result.

        Args:
            rows: coefficients ``(R, *out)``.
            shapes: shape of one example of each operand.

        Returns:
            Coefficients ``(R, *in)`` for each operand, constants ``(R,)``, and the sums of the constants' magnitudes ``(R,)``.
        """
        zeros = [rows.new_zeros(1, *shape) for shape in shapes]
        parts = (rows * self.run(*zeros)).flatten(1)
        constant, mass = parts.sum(1), parts.detach().abs().sum(1)
        if self.transpose is not None:
            return [self.transpose(rows, shapes[0])], constant, mass
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            leaves = [zero.expand(len(rows), *zero.shape[1:]).detach().requires_grad_() for zero in zeros]
            found = torch.autograd.grad(self.run(*leaves), leaves, rows, create_graph=differentiable)
        return list(found), constant, mass


def _linear_part(run: Function, *values: Tensor) -> Tensor:
    return run(*values) - run(*(torch.zeros_like(value) for value in values))


@dataclass(frozen=True)
class Kind:
    """How an ATen operation becomes an `Affine`.

    Attributes:
        build: ``(run, arguments, shape of the result, operands) -> Affine``.
        accepts: whether this use of it is affine in its operands.
    """

    build: Callable[[Function, Any, tuple[int, ...], int], Affine]
    accepts: Callable[[fx.Node, list[fx.Node]], bool] = lambda node, operands: True


def _one_sign(run: Function, args: Any, shape: tuple[int, ...], operands: int) -> Affine:
    """Return an operation of which every output entry weighs each operand with one sign: ``|L| r = |L r|``."""
    return Affine(run, lambda *radii: _linear_part(run, *radii).abs())


def _pointwise(run: Function, args: Any, shape: tuple[int, ...], operands: int) -> Affine:
    """Return a factor and a shift of each place."""
    return replace(_one_sign(run, args, shape, operands), pointwise=True)


def _sum(run: Function, args: Any, shape: tuple[int, ...], operands: int) -> Affine:
    """Return ``a + s b`` of two operands, in which radii add up, or the sum of one and a constant."""
    if operands == 1:
        return _pointwise(run, args, shape, operands)
    one, zero = torch.ones(1), torch.zeros(1)
    signs = (1.0, float(run(zero, one)))
    return Affine(run, lambda a, b: a + abs(signs[1]) * b, signs=signs)


def _average(run: Function, args: Any, shape: tuple[int, ...], operands: int) -> Affine:
    """Return an average pooling; without padding it is a convolution of each channel."""
    found = _one_sign(run, args, shape, operands)
    defaults: tuple[Any, ...] = ((), (), (0, 0), False, True, None)
    _, size, stride, padding, ceil, _, divisor = tuple(args) + defaults[len(args) - 1 :]
    if any(padding) or ceil or divisor:
        return found
    weight = torch.full((shape[0], 1, *size), 1 / math.prod(size), dtype=torch.float64)
    return replace(found, convolution=depthwise(weight, stride or size, (0, 0)))


def depthwise(weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> dict[str, Any]:
    """Return the options of a convolution of each channel by itself; a negative padding skips the first values.

    Args:
        weight: kernels ``(C, 1, h, w)``.
        stride: of rows and columns.
        padding: of rows and columns.
    """
    how = {"weight": weight, "bias": None, "stride": stride, "padding": padding}
    return how | {"dilation": (1, 1), "groups": len(weight)}


def _reshape(run: Function, args: Any, shape: tuple[int, ...], operands: int) -> Affine:
    """Return a reshape for any batch size: the trace has that of its example."""

    def reshape(value: Tensor) -> Tensor:
        return value.reshape(len(value), *shape)

    return Affine(reshape, reshape, lambda rows, inside: rows.reshape(len(rows), *inside))


def _convolution(run: Function, args: Any, shape: tuple[int, ...], operands: int) -> Affine:
    _, weight, bias, *rest = args
    return _convolve(weight, bias, rest)


def _convolve(weight: Tensor, bias: Tensor | None, rest: list[Any]) -> Affine:
    stride, padding, dilation, transposed, _, groups = rest
    how = {"weight": weight, "bias": bias, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def apply(value: Tensor, kernel: Tensor, offset: Tensor | None) -> Tensor:
        offset = None if offset is None else offset.to(value.dtype)
        found: Tensor = aten.convolution(value, kernel.to(value.dtype), offset, *rest)
        return found

    def transpose(rows: Tensor, inside: tuple[int, ...]) -> Tensor:
        place = rows.new_zeros(1).expand(len(rows), *inside)
        wanted = [True, False, False]
        found: Tensor = aten.convolution_backward(rows, place, weight.to(rows.dtype), None, *rest, wanted)[0]
        return found

    def scaled(factor: Tensor, shift: Tensor) -> Affine:
        kernel = weight * factor.view(-1, *[1] * (weight.ndim - 1))
        return _convolve(kernel, shift if bias is None else bias * factor + shift, rest)

    return Affine(
        lambda value: apply(value, weight, bias),
        lambda radius: apply(radius, weight.abs(), None),
        transpose,
        how if weight.ndim == 4 and not transposed else None,
        None if transposed else scaled,
    )


def _addmm(run: Function, args: Any, shape: tuple[int, ...], operands: int) -> Affine:
    return _product(args[2], args[0])


def _mm(run: Function, args: Any, shape: tuple[int, ...], operands: int) -> Affine:
    return _product(args[1], None)


def _product(weight: Tensor, bias: Tensor | None) -> Affine:
    def run(value: Tensor) -> Tensor:
        product = value @ weight.to(value.dtype)
        return product if bias is None else product + bias.to(value.dtype)

    def scaled(factor: Tensor, shift: Tensor) -> Affine:
        return _product(weight * factor, shift if bias is None else bias * factor + shift)

    return Affine(
        run,
        lambda radius: radius @ weight.abs().to(radius.dtype),
        lambda rows, inside: rows @ weight.to(rows.dtype).T,
        scaled=scaled,
    )


def _normalisation(run: Function, args: Any, shape: tuple[int, ...], operands: int) -> Affine:
    """Return BatchNorm with fixed statistics as a factor and a shift of each channel, through which gradients reach both."""
    _, weight, bias, mean, variance, _, eps = args
    factor = (variance + eps).rsqrt() * (1.0 if weight is None else weight)
    shift = -mean * factor + (0.0 if bias is None else bias)

    def spread(values: Tensor, like: Tensor) -> Tensor:
        return values.to(like.dtype).view(-1, *[1] * (like.ndim - 2))

    def scale(value: Tensor) -> Tensor:
        return value * spread(factor, value)

    return Affine(
        lambda value: scale(value) + spread(shift, value),
        lambda radius: radius * spread(factor.abs(), radius),
        lambda rows, inside: scale(rows),
        channels=(factor, shift),
        pointwise=True,
    )


def _first_only(node: fx.Node, operands: list[fx.Node]) -> bool:
    """Return whether the operand is the first argument alone: weights and divisors are constants."""
    return operands == [node.args[0]] and node.args[0] not in node.args[1:]


def _factor(node: fx.Node, operands: list[fx.Node]) -> bool:
    """Return whether one factor of a product is constant."""
    return len(operands) == 1 and node.args[0] is not node.args[1]


def _second_only(node: fx.Node, operands: list[fx.Node]) -> bool:
    return len(operands) == 1 and operands[0] is node.args[1] and not node.kwargs


def _distinct(node: fx.Node, operands: list[fx.Node]) -> bool:
    """Return whether no operand comes twice, as in ``h - h``, for which radii of one operand cancel."""
    return node.args[0] is not node.args[1]


AFFINE: dict[Any, Kind] = {
    aten.convolution.default: Kind(_convolution, _first_only),
    aten.addmm.default: Kind(_addmm, _second_only),
    aten.mm.default: Kind(_mm, _first_only),
    aten.view.default: Kind(_reshape),
    aten._unsafe_view.default: Kind(_reshape),
    aten.reshape.default: Kind(_reshape),
    aten.squeeze.dims: Kind(_reshape),
    aten.unsqueeze.default: Kind(_reshape),
    aten.add.Tensor: Kind(_sum, _distinct),
    aten.sub.Tensor: Kind(_sum, _distinct),
    aten.mul.Tensor: Kind(_pointwise, _factor),
    aten.div.Tensor: Kind(_pointwise, _first_only),
    aten.neg.default: Kind(_pointwise),
    aten.permute.default: Kind(_one_sign),
    aten.cat.default: Kind(_one_sign, lambda node, operands: len(operands) == len(node.args[0])),  # type: ignore[arg-type]
    aten.slice.Tensor: Kind(_one_sign),
    aten.select.int: Kind(_one_sign),
    aten.mean.dim: Kind(_one_sign),
    aten.sum.dim_IntList: Kind(_one_sign),
    aten.avg_pool1d.default: Kind(_one_sign),
    aten.avg_pool2d.default: Kind(_average),
    aten.avg_pool3d.default: Kind(_one_sign),
    aten._adaptive_avg_pool2d.default: Kind(_one_sign),
    aten.constant_pad_nd.default: Kind(_one_sign),
    aten._native_batch_norm_legit_no_training.default: Kind(_normalisation, _first_only),
    aten.clone.default: Kind(_pointwise),
    aten.alias.default: Kind(_pointwise),
}
"""ATen operations that are affine in what depends on the input."""

"""Linear bounds of single values behind local layers, computed in their receptive fields alone.

A row that begins at one value of a convolution has coefficients in a small window of each earlier layer. Rows of that kind are
kept as windows with an origin, which for the second convolution of a small network is thirty times less work. Convolutions,
pooling, activations, factors of each place and sums keep windows; where two windows of a layer meet, they are padded to both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg.bounds.activations import Activation
from advreg.bounds.affine import Affine
from advreg.bounds.graph import Graph, Node
from advreg.bounds.inputs import InputSet
from advreg.bounds.lines import Lines


@dataclass(frozen=True)
class Windows:
    """Linear functions of a layer ``(C, H, W)``, zero outside a window of it; windows may reach over its edges.

    Attributes:
        values: coefficients ``(2, R, C, h, w)``: of each function, and of another in the same window.
        origin: row and column of each window's first coefficient ``(R, 2)``.
        examples: example of each function ``(R,)``.
    """

    values: Tensor
    origin: Tensor
    examples: Tensor

    def places(self) -> tuple[Tensor, Tensor]:
        """Return rows ``(R, h)`` and columns ``(R, w)`` of the layer that the windows cover."""
        height, width = self.values.shape[-2:]
        steps = torch.arange(max(height, width), device=self.origin.device)
        return self.origin[:, :1] + steps[:height], self.origin[:, 1:] + steps[:width]

    def inside(self, shape: tuple[int, ...]) -> Windows:
        """Return the windows without what is beyond the edges of the layer: padding, which is zero."""
        rows, columns = self.places()
        last = rows[:, -1].max() < shape[1] and columns[:, -1].max() < shape[2]
        if bool(last) and int(self.origin.min()) >= 0:
            return self
        keep = ((rows >= 0) & (rows < shape[1]))[:, :, None] & ((columns >= 0) & (columns < shape[2]))[:, None, :]
        return replace(self, values=self.values * keep[:, None])

    def gather(self, layer: Tensor) -> Tensor:
        """Return the values of a layer ``(B, C, H, W)`` in the windows ``(R, C, h, w)``; beyond its edges, the nearest."""
        rows, columns = self.places()
        _, channels, height, width = layer.shape
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        at = (self.examples[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
        found = layer.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, at.flatten())
        return found.view(*at.shape, channels).permute(0, 3, 1, 2)

    def __add__(self, other: Windows) -> Windows:
        """Return the sums of the functions; the windows of both differ by the same step in every row."""
        first = self.origin.minimum(other.origin)
        ends = [each.origin + each.origin.new_tensor(each.values.shape[-2:]) for each in (self, other)]
        size = (ends[0].maximum(ends[1]) - first)[0].tolist()
        return replace(self, values=self._padded(first, size) + other._padded(first, size), origin=first)

    def _padded(self, first: Tensor, size: list[int]) -> Tensor:
        """Return the coefficients in windows of another origin and size, which contain these."""
        (top, left), (height, width) = (self.origin - first)[0].tolist(), self.values.shape[-2:]
        padded = F.pad(self.values.flatten(0, 1), (left, size[1] - width - left, top, size[0] - height - top))
        return padded.view(*self.values.shape[:2], *padded.shape[1:])


def local_path(graph: Graph, position: int) -> list[int] | None:
    """Return a node and those before it, the last first, if all of them keep windows; else None.

    Args:
        graph: the network.
        position: the node.
    """
    path = graph.ancestors(position)
    images = all(len(graph.nodes[i].shape) == 3 for i in path)
    return path if images and all(_keeps_windows(graph, graph.nodes[i]) for i in path[:-1]) else None


def _keeps_windows(graph: Graph, node: Node) -> bool:
    operation = node.operation
    if isinstance(operation, Activation) or (isinstance(operation, Affine) and operation.convolution is not None):
        return True
    alike = all(graph.nodes[k].shape == node.shape for k in node.inputs)
    return alike and isinstance(operation, Affine) and (operation.pointwise or operation.signs is not None)


def window_bounds(
    graph: Graph, path: list[int], places: Tensor, lines: Mapping[int, Lines], inputs: InputSet
) -> tuple[Tensor, Tensor]:
    """Return lower bounds of single values of a node, and upper bounds, ``(R,)`` each.

    Args:
        graph: the network.
        path: the node and those before it, from `local_path`.
        places: example, channel, row and column of each value ``(R, 4)``.
        lines: of the activations before it, by position ``(B, ...)``.
        inputs: valid inputs of each example.

    Returns:
        Lower and upper bounds ``(R,)``.
    """
    graph.passes.backwards += 2 * len(places)
    one = F.one_hot(places[:, 1], graph.nodes[path[0]].shape[0]).to(inputs.x.dtype)[:, :, None, None]
    pending = {path[0]: Windows(torch.stack([one, -one]), places[:, 2:], places[:, 0])}
    total = inputs.x.new_zeros(2, len(one))
    for i in path[:-1]:
        node = graph.nodes[i]
        here = pending.pop(i).inside(node.shape)
        parts, constant = _back(here, node, lines.get(i))
        total = total + constant
        for k, part in zip(node.inputs, parts, strict=True):
            if part is not None:
                pending[k] = pending[k] + part if k in pending else part
    at = pending[0].inside(graph.nodes[0].shape)
    threat, x = inputs.threat.select(at.examples), at.gather(inputs.x)
    low, negative_high = (constant + threat.minimise(rows, x) for rows, constant in zip(at.values, total, strict=True))
    return low, -negative_high


def _back(at: Windows, node: Node, lines: Lines | None) -> tuple[list[Windows | None], Tensor | float]:
    """Return the windows of each operand, None where it has none, and the constants ``(2, R)``."""
    operation = node.operation
    if lines is not None:
        values, constant = lines.map(at.gather).pull_back(at.values)
        return [replace(at, values=values)], constant
    assert isinstance(operation, Affine)
    if operation.convolution is not None:
        return _back_through_convolution(at, operation.convolution)
    if operation.signs is not None:
        return [replace(at, values=sign * at.values) if sign else None for sign in operation.signs], 0.0
    nothing = at.values.new_zeros(1, *node.shape)
    shift, (factor,) = operation.run(nothing), operation.backward(nothing + 1, [node.shape])[0]
    at_all = replace(at, examples=torch.zeros_like(at.examples))
    constant = (at.values * at_all.gather(shift)).sum((-3, -2, -1))
    return [replace(at, values=at.values * at_all.gather(factor))], constant


_ENTRIES = 2**20
"""Entries of a matrix that does the work of a convolution on windows: up to there, a product takes less time."""


def _back_through_convolution(at: Windows, how: dict[str, Any]) -> tuple[list[Windows | None], Tensor | float]:
    """Return the windows before a convolution."""
    options = {key: how[key] for key in ("stride", "dilation", "groups")}
    flat = at.values.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # as gathered lines are
    weight = how["weight"].to(flat)
    sides = [stride * (n - 1) + dilation * (k - 1) + 1 for n, k, stride, dilation in zip(
        flat.shape[2:], weight.shape[2:], how["stride"], how["dilation"], strict=True)]  # fmt: skip
    shape = (weight.shape[1] * how["groups"], *sides)
    if math.prod(weight.shape[1:]) == 1 and how["groups"] == shape[0]:
        values = flat.new_zeros(len(flat), *shape).contiguous(memory_format=torch.channels_last)
        values[:, :, :: how["stride"][0], :: how["stride"][1]] = flat * weight.view(-1, 1, 1)
    elif how["groups"] == 1 and 8 * flat[0].numel() <= len(flat) and flat[0].numel() * math.prod(shape) <= _ENTRIES:
        unit = torch.eye(flat[0].numel(), dtype=flat.dtype, device=flat.device).view(-1, *flat.shape[1:])
        product = flat.flatten(1) @ F.conv_transpose2d(unit, weight, **options).flatten(1)
        values = product.view(-1, *shape).contiguous(memory_format=torch.channels_last)
    else:
        values = F.conv_transpose2d(flat, weight.contiguous(memory_format=torch.channels_last), **options)
    constant = 0.0 if how["bias"] is None else at.values.sum((-2, -1)) @ how["bias"].to(at.values.dtype)
    stride, padding = (at.origin.new_tensor(how[key]) for key in ("stride", "padding"))
    before = replace(at, values=values.view(*at.values.shape[:2], *shape), origin=at.origin * stride - padding)
    return [before], constant

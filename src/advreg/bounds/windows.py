"""Linear bounds of single values behind convolutions, computed in their receptive fields alone.

A row that begins at one value of a convolution has coefficients in a small window of each earlier layer. Rows of that kind are
kept as windows with an origin, which for the second convolution of a small network is thirty times less work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg.bounds.activations import Activation
from advreg.bounds.affine import Affine
from advreg.bounds.graph import Graph
from advreg.bounds.inputs import InputSet
from advreg.bounds.interval import Interval


@dataclass(frozen=True)
class Windows:
    """Linear functions of a layer ``(C, H, W)``, zero outside a window of it; windows may reach over its edges.

    Attributes:
        values: coefficients ``(2, R, C, h, w)``: of each function, and of another in the same window.
        origin: row and column of each window's first coefficient ``(R, 2)``.
        examples: example of each function ``(R,)``.
        total: constants ``(2, R)``.
    """

    values: Tensor
    origin: Tensor
    examples: Tensor
    total: Tensor

    def places(self) -> tuple[Tensor, Tensor]:
        """Return rows ``(R, h)`` and columns ``(R, w)`` of the layer that the windows cover."""
        height, width = self.values.shape[-2:]
        steps = torch.arange(max(height, width), device=self.origin.device)
        return self.origin[:, :1] + steps[:height], self.origin[:, 1:] + steps[:width]

    def inside(self, shape: tuple[int, ...]) -> Windows:
        """Return the windows without what is beyond the edges of the layer: padding, which is zero."""
        rows, columns = self.places()
        keep = ((rows >= 0) & (rows < shape[1]))[:, :, None] & ((columns >= 0) & (columns < shape[2]))[:, None, :]
        return replace(self, values=self.values * keep[:, None])

    def gather(self, layer: Tensor) -> Tensor:
        """Return the values of a layer ``(B, C, H, W)`` in the windows ``(R, C, h, w)``; beyond its edges, the nearest."""
        rows, columns = self.places()
        rows, columns = rows.clamp(0, layer.shape[2] - 1), columns.clamp(0, layer.shape[3] - 1)
        found = layer.permute(0, 2, 3, 1)[self.examples[:, None, None], rows[:, :, None], columns[:, None, :]]
        return found.permute(0, 3, 1, 2)


def path_of_convolutions(graph: Graph, position: int) -> list[int] | None:
    """Return the nodes from a convolution down to the input if they are convolutions and activations alone, else None.

    Args:
        graph: the network.
        position: the node.
    """
    path = graph.ancestors(position)
    nodes = [graph.nodes[i] for i in path[:-1]]
    plain = all(
        len(node.inputs) == 1
        and len(node.shape) == 3
        and (isinstance(node.operation, Activation) or _convolution(node.operation) is not None)
        for node in nodes
    )
    return path if plain and len(graph.nodes[0].shape) == 3 else None


def _convolution(operation: Any) -> dict[str, Any] | None:
    """Return the options of a plain two-dimensional convolution."""
    return operation.convolution if isinstance(operation, Affine) else None


def window_bounds(
    graph: Graph, path: list[int], places: Tensor, intervals: list[Interval], inputs: InputSet
) -> tuple[Tensor, Tensor]:
    """Return lower bounds of single values of a node, and upper bounds, ``(R,)`` each.

    Args:
        graph: the network.
        path: the node and those before it, from `path_of_convolutions`.
        places: example, channel, row and column of each value ``(R, 4)``.
        intervals: ranges of the nodes before it.
        inputs: valid inputs of each example.

    Returns:
        Lower and upper bounds ``(R,)``.
    """
    one = F.one_hot(places[:, 1], graph.nodes[path[0]].shape[0]).to(inputs.x.dtype)[:, :, None, None]
    at = Windows(torch.stack([one, -one]), places[:, 2:], places[:, 0], inputs.x.new_zeros(2, len(one)))
    for i in path[:-1]:
        node = graph.nodes[i]
        at = at.inside(node.shape)
        if isinstance(node.operation, Activation):
            lines = node.operation.lines(*intervals[node.inputs[0]], None).map(at.gather)
            back, constant = lines.pull_back(at.values)
            at = replace(at, values=back, total=at.total + constant)
        else:
            at = _back(at, node.operation)
    at = at.inside(graph.nodes[0].shape)
    threat, x = inputs.threat.select(at.examples), at.gather(inputs.x)
    low, negative_high = (total + threat.minimise(rows, x) for rows, total in zip(at.values, at.total, strict=True))
    return low, -negative_high


_ENTRIES = 2**20
"""Entries of a matrix that does the work of a convolution on windows: up to there, a product takes less time."""


def _back(at: Windows, operation: Any) -> Windows:
    """Return the windows before a convolution."""
    how = operation.convolution
    options = {key: how[key] for key in ("stride", "dilation", "groups")}
    weight, flat = how["weight"].to(at.values.dtype), at.values.flatten(0, 1)
    unit = torch.eye(flat[0].numel(), dtype=flat.dtype, device=flat.device).view(-1, *flat.shape[1:])
    sides = [stride * (n - 1) + dilation * (k - 1) + 1 for n, k, stride, dilation in zip(
        flat.shape[2:], weight.shape[2:], how["stride"], how["dilation"], strict=True)]  # fmt: skip
    shape = (weight.shape[1] * how["groups"], *sides)
    if len(unit) * math.prod(shape) <= _ENTRIES:
        values = flat.flatten(1) @ F.conv_transpose2d(unit, weight, **options).flatten(1)
    else:
        values = F.conv_transpose2d(flat, weight, **options)
    constant = 0.0 if how["bias"] is None else at.values.sum((-2, -1)) @ how["bias"].to(at.values.dtype)
    stride, padding = (at.origin.new_tensor(how[key]) for key in ("stride", "padding"))
    return Windows(
        values.view(*at.values.shape[:2], *shape), at.origin * stride - padding, at.examples, at.total + constant
    )

"""Ranges of every operation's value, tight where intervals leave the sign of an activation's input open.

A neuron is exact once its sign is known, whatever the width of its interval: linear bounds are for the others only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from advreg.bounds.activations import Activation
from advreg.bounds.graph import Graph
from advreg.bounds.inputs import InputSet
from advreg.bounds.interval import Interval, interval_of
from advreg.bounds.linear import Rows, lower_bounds
from advreg.bounds.lines import Lines
from advreg.bounds.windows import local_path, window_bounds

_ENTRIES = 2**22
"""Coefficients of a batch of rows at most: more than the caches of a CPU hold would gain nothing."""


def tight_intervals(graph: Graph, inputs: InputSet) -> list[Interval]:
    """Return the range of every node's value, with linear bounds (CROWN) of unstable inputs of activations.

    Args:
        graph: the network.
        inputs: valid inputs of each example.

    Returns:
        One pair ``(B, ...)`` for each node.

    Reference: Zhang et al., "Efficient neural network robustness certification with general activation functions", NeurIPS
    2018, arXiv:1811.00866.
    """
    graph.passes.forwards += 2 * len(inputs.x)
    found, lines = [inputs.interval], dict[int, Lines]()
    inner = {graph.nodes[i].inputs[0] for i in graph.activations}
    for i, node in enumerate(graph.nodes[1:], 1):
        found.append(interval_of(node, [found[k] for k in node.inputs]))
        if isinstance(node.operation, Activation):
            lines[i] = node.operation.lines(*found[node.inputs[0]], None)
        if i in inner:
            found[i] = _tighten(graph, i, found, lines, inputs)
    return found


def _tighten(graph: Graph, position: int, found: list[Interval], lines: dict[int, Lines], inputs: InputSet) -> Interval:
    low, high = (end.clone() for end in found[position])
    places = _unstable(graph, position, low, high).nonzero()
    path = local_path(graph, position)

    def dense(part: Tensor) -> Interval:
        rows = low.new_zeros(len(part), *low.shape[1:])
        rows[(torch.arange(len(part), device=low.device), *part[:, 1:].T)] = 1.0
        sides = (Rows(side * rows, part[:, 0]) for side in (1.0, -1.0))
        least, most = (lower_bounds(graph, position, side, found, inputs, lines=lines).value for side in sides)
        return least, -most

    def windowed(part: Tensor) -> Interval:
        assert path is not None
        return window_bounds(graph, path, part, lines, inputs)

    bounds: Callable[[Tensor], Interval] = dense if path is None else windowed
    entries = max(math.prod(node.shape) for node in graph.nodes[: position + 1])
    for part in torch.split(places, max(1, _ENTRIES // entries)) if len(places) else ():
        at, (least, most) = tuple(part.T), bounds(part)
        low[at], high[at] = low[at].maximum(least), high[at].minimum(most)
    return low, high


def _unstable(graph: Graph, position: int, low: Tensor, high: Tensor) -> Tensor:
    """Return where an activation that reads the node is exact for no line."""
    readers = (graph.nodes[i] for i in graph.activations if graph.nodes[i].inputs[0] == position)
    found = [node.operation.unstable(low, high) for node in readers if isinstance(node.operation, Activation)]
    return torch.stack(found).any(0)

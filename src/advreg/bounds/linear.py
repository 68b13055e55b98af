"""Linear bounds (CROWN): a linear function of the logits is bounded below by a linear function of the input.

margin rows -> backward through the network, each activation replaced by a line -> minimum over the valid inputs
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from advreg.bounds.activations import Activation
from advreg.bounds.affine import Affine
from advreg.bounds.graph import Graph
from advreg.bounds.inputs import InputSet
from advreg.bounds.interval import Interval
from advreg.bounds.lines import Lines


class LowerBound(NamedTuple):
    """Lower bounds ``(R,)``, and the magnitudes of the terms that they are sums of, in proportion to which they round."""

    value: Tensor
    mass: Tensor


class Rows(NamedTuple):
    """Linear functions of a node's value: coefficients ``(R, ...)``, and the example of each ``(R,)``."""

    coefficients: Tensor
    examples: Tensor


def lower_bounds(
    graph: Graph,
    position: int,
    rows: Rows,
    intervals: list[Interval],
    inputs: InputSet,
    *,
    slopes: Mapping[int, Tensor] | None = None,
    pulls: Mapping[int, Tensor] | None = None,
    depth: int | None = None,
    lines: Mapping[int, Lines] | None = None,
    trail: dict[int, Tensor] | None = None,
) -> LowerBound:
    """Return lower bounds of linear functions of a node's value over the valid inputs.

    Args:
        graph: the network.
        position: the node.
        rows: functions of its value.
        intervals: ranges of the nodes before it.
        inputs: valid inputs of each example.
        slopes: for some activations, by position, slopes of the lines below ``(R, ...)``; the usual ones otherwise.
        pulls: coefficients that are added to those of a node's value ``(R, ...)``: multipliers of constraints on it.
        depth: how many nodes to pass before their intervals decide; by default all, down to the input.
        lines: lines of activations by position ``(B, ...)``, where they are known already.
        trail: receives the coefficients of each activation and of the input, by position.

    Returns:
        The bounds ``(R,)`` with the magnitude of their terms.

    Reference: Zhang et al., "Efficient neural network robustness certification with general activation functions", NeurIPS
    2018, arXiv:1811.00866.
    """
    if depth is None:  # else the rows end in the last layers, as a part of interval bounds
        graph.passes.backwards += len(rows.examples)
    pending = {position: rows.coefficients}
    value = mass = rows.coefficients.new_zeros(len(rows.examples))
    for i in graph.ancestors(position)[:depth]:
        if i == 0:
            break
        node, here = graph.nodes[i], pending.pop(i)
        if pulls is not None and i in pulls:
            here = here + pulls[i]
        if isinstance(node.operation, Affine):
            parts, constant, size = node.operation.backward(here, [graph.nodes[k].shape for k in node.inputs])
        else:
            assert isinstance(node.operation, Activation)
            if trail is not None:
                trail[i] = here.detach()
            if lines is not None and i in lines:
                own = lines[i].map(lambda each: each[rows.examples])
            else:
                own = _lines(node.operation, intervals[node.inputs[0]], rows.examples, (slopes or {}).get(i))
            part, constant = own.pull_back(here)
            parts, size = [part], constant.detach().abs()
        value, mass = value + constant, mass + size
        for k, part in zip(node.inputs, parts, strict=True):
            pending[k] = pending[k] + part if k in pending else part
    if trail is not None and 0 in pending:
        trail[0] = pending[0].detach()
    for i, here in pending.items():
        least, size = _least(i, here, rows.examples, intervals, inputs)
        value, mass = value + least, mass + size
    return LowerBound(value, mass)


def _lines(operation: Activation, interval: Interval, examples: Tensor, slopes: Tensor | None) -> Lines:
    """Return the lines of each row: those of its example, unless the row has slopes of its own."""
    if slopes is None or operation.leak is None:
        return operation.lines(*interval, None).map(lambda each: each[examples])
    low, high = (end[examples] for end in interval)
    return operation.lines(low, high, slopes)


def _least(i: int, here: Tensor, examples: Tensor, intervals: list[Interval], inputs: InputSet) -> LowerBound:
    """Return the least value of functions of a node: over the valid inputs for the input, over its range for others."""
    low, high = (end[examples] for end in intervals[i])
    size = (here.detach().abs() * low.abs().maximum(high.abs())).flatten(1).sum(1)
    if i == 0:
        return LowerBound(inputs.minimise(here, examples), size)
    return LowerBound(torch.minimum(here * low, here * high).flatten(1).sum(1), size)

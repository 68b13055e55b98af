"""Interval bounds (IBP): the range of every operation's value from the ranges of its operands."""

from __future__ import annotations

from torch import Tensor

from advreg.bounds.activations import Activation
from advreg.bounds.affine import Affine
from advreg.bounds.graph import Graph, Node

Interval = tuple[Tensor, Tensor]
"""Lowest and highest values, each ``(B, ...)``."""


def interval_of(node: Node, operands: list[Interval]) -> Interval:
    """Return the range of an operation's value.

    Args:
        node: the operation.
        operands: ranges of its operands.
    """
    if isinstance(node.operation, Affine) and node.operation.interval is not None:
        return node.operation.interval(*operands)
    if isinstance(node.operation, Affine):
        middles = [(low + high) / 2 for low, high in operands]
        radii = [(high - low) / 2 for low, high in operands]
        middle, radius = node.operation(*middles), node.operation.radius(*radii)
        return middle - radius, middle + radius
    assert isinstance(node.operation, Activation)
    return node.operation.interval(*operands[0])


def interval_bounds(graph: Graph, low: Tensor, high: Tensor) -> list[Interval]:
    """Return the range of every node's value for inputs between ``low`` and ``high``, two forwards' worth of work.

    Args:
        graph: the network.
        low: lower ends of the inputs ``(B, ...)``.
        high: upper ends.

    Returns:
        One pair for each node, the logits' last.

    Example:
        >>> import torch
        >>> from advreg.bounds.graph import trace
        >>> net = torch.nn.Linear(2, 2).eval()
        >>> x = torch.zeros(1, 2)
        >>> low, high = interval_bounds(trace(net, x), x - 0.1, x + 0.1)[-1]
        >>> bool(((low <= net(x)) & (net(x) <= high)).all())
        True

    Reference: Gowal et al., "On the effectiveness of interval bound propagation for training verifiably robust models", 2018,
    arXiv:1810.12715.
    """
    graph.passes.forwards += 2 * len(low)
    found = [(low, high)]
    for node in graph.nodes[1:]:
        found.append(interval_of(node, [found[i] for i in node.inputs]))
    return found

"""Lower bounds of every margin ``z_y - z_j`` over the valid inputs; an example is proved where all are positive."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.bounds.graph import Graph
from advreg.bounds.inputs import InputSet
from advreg.bounds.interval import Interval
from advreg.bounds.linear import LowerBound, Rows, lower_bounds


def margin_rows(y: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Rows:
    """Return the functions ``z_y - z_j`` of the logits for ``j != y``, example by example.

    Args:
        y: labels ``(B,)``.
        classes: number of logits K.
        dtype: floating type of the coefficients.

    Returns:
        Coefficients ``(B (K-1), K)`` and examples ``(B (K-1),)``.

    Example:
        >>> margin_rows(torch.tensor([1]), 3).coefficients.tolist()
        [[-1.0, 1.0, 0.0], [0.0, 1.0, -1.0]]
    """
    unit = torch.eye(classes, dtype=dtype, device=y.device)
    rivals = torch.arange(classes, device=y.device) != y[:, None]
    rows = (unit[y][:, None] - unit[None])[rivals]
    return Rows(rows, torch.arange(len(y), device=y.device).repeat_interleave(classes - 1))


def margins(
    graph: Graph, inputs: InputSet, y: Tensor, intervals: list[Interval], *, depth: int | None = None
) -> LowerBound:
    """Return lower bounds of the margins, ``(B, K-1)``.

    Args:
        graph: the network.
        inputs: valid inputs of each example.
        y: labels ``(B,)``.
        intervals: ranges of every node's value, from `interval_bounds` or `tight_intervals`.
        depth: operations to go back before the intervals decide: 1 merges the margin into the last layer and is interval
            bound propagation; all by default.

    Returns:
        The bounds, with the magnitude of their terms.

    Example:
        >>> from advreg.bounds.graph import trace
        >>> from advreg.bounds.interval import interval_bounds
        >>> from advreg.threat import ThreatModel
        >>> net, x, y = torch.nn.Linear(2, 2).eval(), torch.full((1, 2), 0.5), torch.tensor([0])
        >>> inputs = InputSet(x, ThreatModel("linf", 0.0))
        >>> graph = trace(net, x)
        >>> bound = margins(graph, inputs, y, interval_bounds(graph, *inputs.interval))
        >>> bool((bound.value[0, 0] - (net(x)[0, 0] - net(x)[0, 1])).abs() < 1e-5)
        True
    """
    rows = margin_rows(y, graph.nodes[-1].shape[0], inputs.x.dtype)
    found = lower_bounds(graph, len(graph.nodes) - 1, rows, intervals, inputs, depth=depth)
    return LowerBound(*(part.view(len(y), -1) for part in found))

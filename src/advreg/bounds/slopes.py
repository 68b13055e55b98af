"""Optimised slopes (alpha-CROWN): the line below each unstable ReLU is turned until the bound is as high as it gets."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.bounds.graph import Graph
from advreg.bounds.inputs import InputSet
from advreg.bounds.interval import Interval
from advreg.bounds.linear import LowerBound, Rows, lower_bounds
from advreg.bounds.margins import margin_rows


def optimised_margins(
    graph: Graph,
    inputs: InputSet,
    y: Tensor,
    intervals: list[Interval],
    known: LowerBound,
    *,
    steps: int = 20,
    lr: float = 0.3,
) -> LowerBound:
    """Return the highest lower bounds of the margins that gradient ascent on the slopes finds, ``(B, K-1)``.

    Every slope in [0, 1] gives a valid bound, so the best of all steps is kept. Margins that are positive already are not
    optimised.

    Args:
        graph: the network.
        inputs: valid inputs of each example.
        y: labels ``(B,)``.
        intervals: ranges of every node's value.
        known: bounds so far ``(B, K-1)``.
        steps: steps of Adam.
        lr: its learning rate.

    Returns:
        The bounds, with the magnitude of their terms.

    Reference: Xu et al., "Fast and complete: enabling complete verification with rapid and massively parallel incomplete
    verifiers", ICLR 2021, arXiv:2011.13824.
    """
    value, mass = known.value.flatten().clone(), known.mass.flatten().clone()
    left = (value <= 0).nonzero()[:, 0]
    if not len(left) or graph.leaks <= {None}:  # no slope to choose
        return known
    whole = margin_rows(y, graph.nodes[-1].shape[0], inputs.x.dtype)
    rows = Rows(whole.coefficients[left], whole.examples[left])
    slopes = {i: _start(graph, i, intervals, rows.examples) for i in graph.activations}
    optimizer = torch.optim.Adam(list(slopes.values()), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.enable_grad():
            bound = lower_bounds(graph, len(graph.nodes) - 1, rows, intervals, inputs, slopes=slopes)
            torch.autograd.backward(-bound.value.sum())
        value[left], mass[left] = value[left].maximum(bound.value.detach()), mass[left].maximum(bound.mass)
        if bool((value[left] > 0).all()):
            break
        optimizer.step()
        with torch.no_grad():
            for slope in slopes.values():
                slope.clamp_(0.0, 1.0)
    return LowerBound(value.view_as(known.value), mass.view_as(known.mass))


def _start(graph: Graph, position: int, intervals: list[Interval], examples: Tensor) -> Tensor:
    """Return the usual slopes of an activation for each row: 1 where more of the interval is positive."""
    low, high = intervals[graph.nodes[position].inputs[0]]
    return (high > -low).to(low.dtype)[examples].requires_grad_()

"""The least value of a function of the logits as a mixed-integer linear program: exact, one binary for each unstable ReLU.

Stable neurons are eliminated: every value is written as an affine function of the input and of the outputs of unstable ReLUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from advreg.bounds.activations import Activation
from advreg.bounds.graph import Graph
from advreg.bounds.inputs import InputSet
from advreg.bounds.interval import Interval

_NODES = 20_000
TOLERANCE = 1e-5
"""What a dual bound must exceed to count: the solver keeps constraints to 1e-6 or 1e-7."""


@dataclass(frozen=True)
class MilpResult:
    """What the solver found.

    Attributes:
        lower: its dual bound, minus infinity where it has none.
        point: the input ``(1, ...)`` of its best solution, None where it has none.
    """

    lower: float
    point: Tensor | None


def count_unstable(graph: Graph, intervals: list[Interval]) -> int:
    """Return the number of ReLUs of the first example with a sign that the ranges leave open.

    Args:
        graph: the network.
        intervals: ranges of every node's value.
    """
    ends = (intervals[graph.nodes[i].inputs[0]] for i in graph.activations)
    return sum(int(((low[0] < 0) & (high[0] > 0)).sum()) for low, high in ends)


def minimise_exactly(
    graph: Graph, inputs: InputSet, row: Tensor, intervals: list[Interval], *, nodes: int = _NODES
) -> MilpResult:
    """Return the least value of a function of the logits over the valid inputs of one example.

    Args:
        graph: the network, in float64; its activations must be ReLUs.
        inputs: valid inputs of one example; in linf.
        row: coefficients of the logits ``(1, K)``.
        intervals: ranges of every node's value ``(1, ...)``.
        nodes: nodes that the solver may explore, which unlike seconds are the same on every machine.

    Returns:
        A `MilpResult`.

    Reference: Tjeng, Xiao, Tedrake, "Evaluating robustness of neural networks with mixed integer programming", ICLR 2019,
    arXiv:1711.07356.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # loading it takes a while

    program = _Program(graph, inputs, intervals)
    constant, coefficients = program.objective(row)
    with _no_output():
        found = milp(
            coefficients,
            integrality=program.integrality,
            bounds=Bounds(program.low, program.high),
            constraints=LinearConstraint(program.matrix, -np.inf, program.most) if len(program.most) else (),
            options={"disp": False, "node_limit": nodes},
        )
    dual = getattr(found, "mip_dual_bound", None)
    lower = -np.inf if dual is None else float(dual) + constant
    if found.x is None:
        return MilpResult(lower, None)
    x = torch.from_numpy(found.x[: program.inputs]).to(inputs.x).view_as(inputs.x)
    return MilpResult(lower, x)


class _Program:
    """Variables: the inputs, the outputs of the unstable ReLUs, and one binary for each of those."""

    def __init__(self, graph: Graph, inputs: InputSet, intervals: list[Interval]) -> None:
        self.inputs, self.unstable = inputs.x[0].numel(), count_unstable(graph, intervals)
        self.columns = self.inputs + self.unstable
        low, high = (end[0].flatten().double().numpy() for end in intervals[0])
        room = np.zeros(self.unstable)
        self.low = np.concatenate([low, room, room])
        self.high = np.concatenate([high, room, room + 1])
        self.integrality = np.concatenate([np.zeros(self.columns), np.ones(self.unstable)])
        self._rows: list[np.ndarray] = []
        self._most: list[float] = []
        self._next = 0
        self.logits = self._walk(graph, intervals)
        self.matrix = np.stack(self._rows) if self._rows else np.zeros((0, self.columns + self.unstable))
        self.most = np.array(self._most)

    def objective(self, row: Tensor) -> tuple[float, np.ndarray]:
        """Return the constant and the coefficients of a function of the logits."""
        found = (self.logits @ row[0].double()).numpy()
        return float(found[0]), np.concatenate([found[1:], np.zeros(self.unstable)])

    def _walk(self, graph: Graph, intervals: list[Interval]) -> Tensor:
        """Return the logits as affine functions, ``(1 + columns, K)``: constants first, then one row for each variable."""
        shape = graph.nodes[0].shape
        first = torch.zeros(1 + self.columns, *shape, dtype=torch.float64)
        first[1 : 1 + self.inputs] = torch.eye(self.inputs, dtype=torch.float64).view(-1, *shape)
        values = [first]
        for node in graph.nodes[1:]:
            operands = [values[k] for k in node.inputs]
            if isinstance(node.operation, Activation):
                values.append(self._relu(operands[0], *intervals[node.inputs[0]]))
                continue
            assert node.operation is not None
            whole = node.operation(*operands)
            nothing = node.operation(*(torch.zeros_like(operand[:1]) for operand in operands))
            values.append(torch.cat([whole[:1], whole[1:] - nothing]))
        return values[-1]

    def _relu(self, z: Tensor, low: Tensor, high: Tensor) -> Tensor:
        flat, (lows, highs) = z.flatten(1), (end[0].flatten().double() for end in (low, high))
        out = torch.where(lows >= 0, flat, 0.0)
        for k in ((lows < 0) & (highs > 0)).nonzero()[:, 0].tolist():
            self._constrain(flat[:, k].numpy(), float(lows[k]), float(highs[k]))
            out[1 + self.inputs + self._next - 1, k] = 1.0
        return out.view_as(z)

    def _constrain(self, z: np.ndarray, low: float, high: float) -> None:
        """Add ``a >= z``, ``a <= z - low (1 - d)``, ``a <= high d`` for the next output ``a`` and its binary ``d``."""
        a, d = self.inputs + self._next, self.columns + self._next
        self._next += 1
        self.high[a] = high
        for weight, constant, output, binary in (
            (1.0, -z[0], -1.0, 0.0),
            (-1.0, z[0] - low, 1.0, -low),
            (0.0, 0.0, 1.0, -high),
        ):
            row = np.zeros(self.columns + self.unstable)
            row[: self.columns] = weight * z[1:]
            row[a] += output
            row[d] += binary
            self._rows.append(row)
            self._most.append(constant)


@contextmanager
def _no_output() -> Iterator[None]:
    """Keep what the solver prints straight to file descriptor 1 out of the caller's output."""
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)

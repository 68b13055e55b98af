"""A feed-forward network as a list of operations, traced with `torch.export`: what bounds walk through.

Spellings vanish in the trace: modules, functions and methods all become ATen operations. What the network does to its input is
either affine in it (layers, normalisation, pooling by means, sums, reshapes) or an activation with known bounds; a network with
anything else is rejected with the name of the operation.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from advreg.bounds.activations import ACTIVATIONS, Activation
from advreg.bounds.affine import AFFINE, Affine
from advreg.bounds.pooling import MAX_POOLS, accepts, append_max_pool
from advreg.errors import ModelError
from advreg.pass_counting import Passes

_TOLERANCE = 1e-4
_ANY_MODEL = "randomised smoothing certifies any model: certify_smoothed, or --sigma"


@dataclass(frozen=True)
class Node:
    """One operation that depends on the network's input.

    Attributes:
        name: name in the trace, for errors.
        inputs: positions of the operands in the graph.
        shape: shape of one example's result.
        operation: what it does; None for the network's input.
    """

    name: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    operation: Affine | Activation | None


@dataclass(frozen=True)
class Graph:
    """Operations in order; the first node is the input, the last one the logits.

    Attributes:
        nodes: the operations.
        passes: work so far: example-forwards, of which an interval takes two, and linear functions taken backward.
    """

    nodes: tuple[Node, ...]
    passes: Passes = field(default_factory=Passes, compare=False, repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` of inputs ``(B, ...)``, computed operation by operation."""
        return self.values(x)[-1]

    def values(self, x: Tensor) -> list[Tensor]:
        """Return the value of every node."""
        self.passes.forwards += len(x)
        values = [x]
        for node in self.nodes[1:]:
            assert node.operation is not None
            values.append(node.operation(*(values[i] for i in node.inputs)))
        return values

    @property
    def activations(self) -> list[int]:
        """Positions of the activations, in order."""
        return [i for i, node in enumerate(self.nodes) if isinstance(node.operation, Activation)]

    @property
    def leaks(self) -> set[float | None]:
        """Slopes for negative values of its activations: {0.0} where all are ReLUs, with None where one is smooth."""
        found = (self.nodes[i].operation for i in self.activations)
        return {operation.leak for operation in found if isinstance(operation, Activation)}

    def ancestors(self, position: int) -> list[int]:
        """Return the positions that a node depends on, itself included, the last first."""
        wanted = {position}
        for i in range(position, -1, -1):
            if i in wanted:
                wanted.update(self.nodes[i].inputs)
        return sorted(wanted, reverse=True)


@dataclass(frozen=True)
class Program:
    """A network's operations with weights still open: `bind` gives them values.

    Attributes:
        exported: the exported program.
        shape: shape of one input.
    """

    exported: torch.export.ExportedProgram
    shape: tuple[int, ...]

    def bind(self, state: Mapping[str, Tensor]) -> Graph:
        """Return the operations with these weights, through which gradients reach them.

        Args:
            state: parameters and buffers by their names in the model; those that are missing keep the exported values.

        Returns:
            The graph.

        Raises:
            ModelError: an operation without a bound.

        Example:
            >>> net = nn.Linear(2, 2).eval()
            >>> program, x = export(net, torch.zeros(1, 2)), torch.ones(1, 2)
            >>> program.bind({"weight": torch.zeros(2, 2), "bias": torch.ones(2)})(x).tolist()
            [[1.0, 1.0]]
        """
        return _Reader(self, state).read()


def trace(model: nn.Module, x: Tensor) -> Graph:
    """Return the operations of a network in eval mode.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``; in eval mode, float32 or float64.
        x: some inputs, on which the trace must give the model's logits to 1e-4.

    Returns:
        The graph.

    Raises:
        ModelError: train mode, control flow that depends on values, or an operation without a bound.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
        >>> graph = trace(net, torch.zeros(1, 1, 2, 2))
        >>> [type(node.operation).__name__ for node in graph.nodes]
        ['NoneType', 'Affine', 'Affine', 'Activation', 'Affine']
    """
    with torch.no_grad():
        graph = export(model, x).bind({})
        difference = float((graph(x) - model(x)).abs().max())
    if not difference <= _TOLERANCE:
        raise ModelError(
            f"the traced network gives other logits, by {difference:.2g}; it is random, or a hook changes it. {_ANY_MODEL}"
        )
    return graph


def export(model: nn.Module, x: Tensor) -> Program:
    """Return the program of a network in eval mode, to bind to weights that change.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``; in eval mode.
        x: some inputs.

    Returns:
        The program.

    Raises:
        ModelError: train mode, or control flow that depends on values.

    Example:
        >>> export(nn.Linear(2, 2).eval(), torch.zeros(1, 2)).shape
        (2,)
    """
    if any(module.training for module in model.modules()):
        raise ModelError("the model is in train mode; call model.eval() before it is certified")
    return Program(_export(model, x[:1]), tuple(x.shape[1:]))


def _export(model: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    frozen = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's exporter calls what torch deprecates
            program: torch.export.ExportedProgram = torch.export.export(model, (x,), strict=False)
            decomposed: torch.export.ExportedProgram = program.run_decompositions(_decompositions())
        return decomposed
    except Exception as cause:  # a module may do anything when it is traced
        raise ModelError(f"the model cannot be traced ({str(cause).splitlines()[0][:120]}); {_ANY_MODEL}") from cause
    finally:
        for weight in frozen:
            weight.requires_grad_(True)


def _decompositions() -> Any:
    """Return torch's decompositions without those of activations, which have bounds as a whole."""
    table = torch.export.default_decompositions()
    for operation in ACTIVATIONS:
        table.pop(operation, None)  # type: ignore[no-untyped-call]
    return table


class _Reader:
    """Reads an exported program: constants are folded, operations on the input become nodes."""

    def __init__(self, program: Program, state: Mapping[str, Tensor]) -> None:
        self.program, self.state = program.exported, state
        self.nodes = [Node("input", (), program.shape, None)]
        self.positions: dict[fx.Node, int] = {}
        self.constants: dict[fx.Node, Any] = {}

    def read(self) -> Graph:
        """Return the graph."""
        named = self._stored()
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                if node.name in named:
                    self.constants[node] = named[node.name]
                else:
                    self.positions[node] = 0
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                return self._finish(node.args[0][0])
        raise ModelError("the trace has no output")

    def _stored(self) -> dict[str, Tensor]:
        signature, state = self.program.graph_signature, dict(self.program.state_dict)
        state.update(self.program.constants)
        kinds = (
            signature.inputs_to_parameters,
            signature.inputs_to_buffers,
            signature.inputs_to_lifted_tensor_constants,
        )
        return {name: self.state.get(target, state[target].detach()) for kind in kinds for name, target in kind.items()}

    def _finish(self, last: fx.Node) -> Graph:
        if last not in self.positions:
            raise ModelError("the logits do not depend on the input")
        used = Graph(tuple(self.nodes)).ancestors(self.positions[last])[::-1]
        place = {old: new for new, old in enumerate(used)}
        kept = [self.nodes[i] for i in used]
        return Graph(tuple(Node(n.name, tuple(place[i] for i in n.inputs), n.shape, n.operation) for n in kept))

    def _call(self, node: fx.Node) -> None:
        operands = list(dict.fromkeys(arg for arg in node.all_input_nodes if arg in self.positions))
        if not operands:
            self.constants[node] = node.target(*self._fixed(node.args), **self._fixed(dict(node.kwargs)))  # type: ignore[operator]
            return
        if (
            node.target is operator.getitem and node.args[1] == 0
        ):  # pooling and normalisation return what they save, too
            self.positions[node] = self.positions[operands[0]]
            return
        if "val" not in node.meta:  # an assertion about its operand, which nothing reads
            return
        value = node.meta["val"]
        shape = tuple(int(s) for s in (value[0] if isinstance(value, tuple | list) else value).shape)[1:]
        inputs = tuple(self.positions[operand] for operand in operands)
        if node.target in MAX_POOLS and accepts(node.args[1:]):
            self.positions[node] = append_max_pool(self._append, node.name, inputs[0], node.args[1:], shape)
            return
        operation = self._operation(node, operands, shape)
        if self._merged(operation, operands[0]):
            self.positions[node] = inputs[0]
            return
        self.positions[node] = self._append(node.name, inputs, shape, operation)

    def _append(
        self, name: str, inputs: tuple[int, ...], shape: tuple[int, ...], operation: Affine | Activation
    ) -> int:
        self.nodes.append(Node(name, inputs, shape, operation))
        return len(self.nodes) - 1

    def _merged(self, operation: Affine | Activation, operand: fx.Node) -> bool:
        """Return whether a normalisation was merged into the layer before it, of which nothing else reads the result."""
        position = self.positions[operand]
        layer = self.nodes[position].operation
        if not (isinstance(operation, Affine) and operation.channels and isinstance(layer, Affine) and layer.scaled):
            return False
        if len(operand.users) > 1:
            return False
        self.nodes[position] = replace(self.nodes[position], operation=layer.scaled(*operation.channels))
        return True

    def _operation(self, node: fx.Node, operands: list[fx.Node], shape: tuple[int, ...]) -> Affine | Activation:
        target = node.target
        if target in ACTIVATIONS:
            return ACTIVATIONS[target](*self._fixed(node.args[1:]), **self._fixed(dict(node.kwargs)))
        if target in AFFINE and AFFINE[target].accepts(node, operands):
            return AFFINE[target].build(self._bound(node, operands), self._fixed(node.args), shape, len(operands))
        raise ModelError(f"no bound for {node.target} (at {node.name!r} of the trace); {_ANY_MODEL}")

    def _bound(self, node: fx.Node, operands: list[fx.Node]) -> Callable[..., Any]:
        """Return the operation as a function of its operands alone."""

        def run(*values: Tensor) -> Any:
            given = dict(zip(operands, values, strict=True))
            args = fx.map_arg(node.args, lambda arg: given[arg] if arg in given else self.constants[arg])
            kwargs = fx.map_arg(dict(node.kwargs), lambda arg: given[arg] if arg in given else self.constants[arg])
            found = node.target(*args, **kwargs)  # type: ignore[operator]
            return found[0] if isinstance(found, tuple | list) else found

        return run

    def _fixed(self, value: Any) -> Any:
        return fx.map_arg(value, lambda arg: self.constants.get(arg, arg))

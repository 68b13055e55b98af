"""Relations between features: text, compiled from its syntax tree by a whitelist; nothing is evaluated as Python."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advreg.errors import ThreatError, did_you_mean

Expression = Callable[[Tensor], Tensor]
"""Rows ``(B, F)`` in float64 -> values ``(B,)``."""

_BINARY: Mapping[type[ast.operator], Callable[[Tensor, Tensor], Tensor]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "abs": torch.abs,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "max": torch.maximum,
    "min": torch.minimum,
}
_TWO = ("max", "min")
_LONGEST = 500
_MOST_NODES = 200
_TOLERANCE = 1e-6
_ALLOWED = f"names, numbers, + - * / **, {', '.join(sorted(_FUNCTIONS))}, and one of <= >= ="


@dataclass(frozen=True)
class Relation:
    """One relation between the features of a row.

    Attributes:
        text: the relation as written, or the name of a function.
        gap: how far a row is from keeping it ``(B,)``: positive where it is broken.
        size: the value that the gap is compared with ``(B,)``.
        derived: the feature that an equation defines, or None.
        value: its value ``(B,)`` by the other features, or None.
        sources: features that the value depends on.
    """

    text: str
    gap: Expression
    size: Expression
    derived: int | None = None
    value: Expression | None = None
    sources: frozenset[int] = frozenset()

    def holds(self, rows: Tensor) -> Tensor:
        """Return whether each row ``(B, F)`` keeps the relation, up to 1e-6 of its size, ``(B,)``."""
        rows = rows.double()
        return self.gap(rows) <= _TOLERANCE * self.size(rows).abs().clamp_min(1.0)

    def violation(self, rows: Tensor) -> Tensor:
        """Return the gap where it is positive, as a share of the relation's size, ``(B,)``; differentiable."""
        rows = rows.double()
        return self.gap(rows).clamp_min(0.0) / self.size(rows).detach().abs().clamp_min(1.0)


def compile_relation(text: str, names: Sequence[str]) -> Relation:
    """Compile ``a <= b``, ``a >= b`` or ``a = b``; a single name left of ``=`` is a derived feature.

    Args:
        text: the relation; a name that is no identifier is written in backticks.
        names: names of the features, in order.

    Returns:
        The relation.

    Raises:
        ThreatError: text that uses anything else, or an unknown name.

    Example:
        >>> relation = compile_relation("total = amount * rate", ["amount", "rate", "total"])
        >>> relation.derived, relation.holds(torch.tensor([[2.0, 3.0, 6.0], [2.0, 3.0, 7.0]])).tolist()
        (2, [True, False])
    """
    parts = re.split(r"(<=|>=|==|=)", text)
    if len(parts) != 3 or len(text) > _LONGEST:
        raise ThreatError(f"relation {text[:80]!r} is not one comparison; allowed: {_ALLOWED}")
    left, right = (_Compiler(text, names).read(side) for side in (parts[0], parts[2]))
    if parts[1] == "<=":
        return Relation(text, lambda rows: left.value(rows) - right.value(rows), right.value)
    if parts[1] == ">=":
        return Relation(text, lambda rows: right.value(rows) - left.value(rows), left.value)
    derived = left.feature if left.feature not in right.sources else None
    value = None if derived is None else right.value
    return Relation(
        text, lambda rows: (left.value(rows) - right.value(rows)).abs(), right.value, derived, value, right.sources
    )


def relation_of(function: Callable[[Tensor], Tensor]) -> Relation:
    """Return the relation of a Python function that returns the gap of each row, positive where it is broken.

    Args:
        function: rows ``(B, F)`` in float64 -> gaps ``(B,)``.

    Returns:
        The relation.

    Example:
        >>> relation_of(lambda rows: rows[:, 0] - rows[:, 1]).holds(torch.tensor([[1.0, 2.0]])).tolist()
        [True]
    """
    name = f"{function.__module__}:{function.__qualname__}"
    return Relation(name, function, lambda rows: torch.ones_like(rows[:, 0]))


@dataclass(frozen=True)
class _Side:
    """One side of a relation: its value, the features in it, and the feature that it is, if it is only a name."""

    value: Expression
    sources: frozenset[int]
    feature: int | None = None


class _Compiler:
    """Compiles expressions of one relation."""

    def __init__(self, text: str, names: Sequence[str]) -> None:
        self.text, self.names = text, list(names)
        self.quoted: list[str] = []
        self.used: set[int] = set()

    def read(self, side: str) -> _Side:
        """Return the compiled side."""
        plain = re.sub(r"`([^`]+)`", self._quote, side).strip()
        try:
            tree = ast.parse(plain, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self._error("cannot be read") from None
        if sum(1 for _ in ast.walk(tree)) > _MOST_NODES:
            raise self._error("is too long")
        value = self._compile(tree)
        feature = self._index(tree.id) if isinstance(tree, ast.Name) else None
        return _Side(value, frozenset(self.used), feature)

    def _quote(self, match: re.Match[str]) -> str:
        self.quoted.append(match[1])
        return f"quoted_{len(self.quoted) - 1}_"

    def _compile(self, node: ast.expr) -> Expression:
        if isinstance(node, ast.Name):
            at = self._index(node.id)
            self.used.add(at)
            return lambda rows: rows[:, at]
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            number = float(node.value)  # type: ignore[arg-type]  # int or float
            return lambda rows: torch.full_like(rows[:, 0], number)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self._compile(node.operand)
            return lambda rows: -inner(rows)
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            combine = _BINARY[type(node.op)]
            first, second = self._compile(node.left), self._compile(node.right)
            return lambda rows: combine(first(rows), second(rows))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return self._call(node.func.id, node.args)
        raise self._error("uses what is not allowed")

    def _call(self, name: str, arguments: list[ast.expr]) -> Expression:
        if name not in _FUNCTIONS or len(arguments) != (2 if name in _TWO else 1):
            raise self._error(f"calls {name!r} with {len(arguments)} values")
        function, inner = _FUNCTIONS[name], [self._compile(each) for each in arguments]
        return lambda rows: function(*(each(rows) for each in inner))

    def _index(self, identifier: str) -> int:
        found = re.fullmatch(r"quoted_(\d+)_", identifier)
        name = self.quoted[int(found[1])] if found and int(found[1]) < len(self.quoted) else identifier
        if name not in self.names:
            raise ThreatError(f"relation {self.text!r}: no feature is called {name!r}.{did_you_mean(name, self.names)}")
        return self.names.index(name)

    def _error(self, reason: str) -> ThreatError:
        return ThreatError(f"relation {self.text[:80]!r} {reason}; allowed: {_ALLOWED}")

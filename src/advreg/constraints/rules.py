"""What the world allows beside a ball: whole numbers, one-hot groups, one-sided changes, and relations between features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from advreg.constraints.relations import Relation, compile_relation, relation_of
from advreg.errors import DataError, ThreatError

_LARGEST = {torch.float32: 2**24, torch.float64: 2**53}
"""Largest whole number up to which every whole number has a value of its own."""


@dataclass(frozen=True)
class FeatureRules:
    """Rules for the rows of a table ``(B, F)``; other inputs are flattened.

    Args:
        integer: features that hold whole numbers, by position.
        groups: one-hot groups, each the positions of its members: exactly one is 1, the others are 0.
        relations: text such as ``"installment <= income"`` or ``"total = amount * rate"``, or functions of rows ``(B, F)``
            that return a gap ``(B,)``, positive where the relation is broken. A single name left of ``=`` is derived: it is
            recomputed from the others.
        names: names of the features, for relations and messages; ``x0, x1, ...`` if empty.
        one_sided: for each feature 1 if it may only rise, -1 if it may only fall, 0 if both; empty: 0 for all.

    Raises:
        ThreatError: a relation that cannot be read, derived features in a circle, positions in two groups.

    Example:
        >>> rules = FeatureRules(integer=(0,), groups=((1, 2),))
        >>> rules.kept(torch.tensor([[2.0, 1.0, 0.0], [2.5, 1.0, 0.0]])).tolist()
        [True, False]
    """

    integer: tuple[int, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    relations: tuple[str | Callable[[Tensor], Tensor], ...] = ()
    names: tuple[str, ...] = ()
    one_sided: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("integer", "relations", "names", "one_sided"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "groups", tuple(tuple(group) for group in self.groups))
        members = [at for group in self.groups for at in group]
        if len(set(members)) < len(members) or any(len(group) < 2 for group in self.groups):
            raise ThreatError(f"groups are {self.groups}; give each one-hot group 2 members or more, each in one group")
        if set(self.one_sided) - {-1, 0, 1}:
            raise ThreatError(f"one_sided is {self.one_sided}; give 1 (only up), -1 (only down) or 0 for each feature")
        _ = self.derived

    @cached_property
    def compiled(self) -> tuple[Relation, ...]:
        """The relations, compiled."""
        names = self.names or tuple(f"x{k}" for k in range(1024))
        return tuple(compile_relation(r, names) if isinstance(r, str) else relation_of(r) for r in self.relations)

    @cached_property
    def derived(self) -> tuple[Relation, ...]:
        """The relations that define a feature, each after those it depends on.

        Raises:
            ThreatError: features that depend on each other in a circle.
        """
        waiting: dict[int, Relation] = {}
        for each in self.compiled:
            if each.derived is not None:
                waiting.setdefault(each.derived, each)
        ordered: list[Relation] = []
        while waiting:
            ready = [at for at, each in waiting.items() if not each.sources & waiting.keys()]
            if not ready:
                circle = "; ".join(each.text for each in waiting.values())
                raise ThreatError(f"derived features depend on each other in a circle: {circle}")
            ordered += [waiting.pop(at) for at in ready]
        return tuple(ordered)

    @cached_property
    def fingerprint(self) -> str:
        """8 hex digits of the rules, for ids."""
        texts = [each.text for each in self.compiled]
        parts = [self.integer, self.groups, texts, self.names, self.one_sided]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]

    def record(self) -> dict[str, object]:
        """Return the rules as JSON takes them: positions of whole numbers and groups, and the text of derived features."""
        derived = {str(each.derived): each.text for each in self.derived}
        return {"integer": list(self.integer), "groups": [list(group) for group in self.groups], "derived": derived}

    def name(self, at: int) -> str:
        """Return the name of a feature."""
        return self.names[at] if at < len(self.names) else f"x{at}"

    def checks(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """Yield each rule: its words, and the function of rows ``(B, F)`` to whether they keep it ``(B,)``."""
        for at in self.integer:
            yield f"{self.name(at)} is a whole number", partial(_are_whole, at)
        for group in self.groups:
            words = f"exactly one of {', '.join(self.name(at) for at in group)} is 1"
            yield words, partial(_are_one_hot, group)
        for relation in self.compiled:
            yield relation.text, relation.holds

    def kept(self, a: Tensor) -> Tensor:
        """Return whether each row keeps all rules, measured in float64, ``(B,)``."""
        rows = a.double().flatten(1)
        kept = torch.ones(len(rows), dtype=torch.bool, device=a.device)
        for _, check in self.checks():
            kept &= check(rows)
        return kept

    def first_broken(self, a: Tensor) -> list[str]:
        """Return for each row the first rule that it breaks, in words; empty where it keeps all."""
        rows, found = a.double().flatten(1), [""] * len(a)
        for words, check in self.checks():
            for row in (~check(rows)).nonzero()[:, 0].tolist():
                found[row] = found[row] or words
        return found

    def violation(self, a: Tensor) -> Tensor:
        """Return the sum of the relations' gaps, each as a share of its size, ``(B,)``; differentiable, 0 where all hold."""
        rows = a.double().flatten(1)
        gaps = [each.violation(rows) for each in self.compiled]
        return torch.stack(gaps).sum(0) if gaps else torch.zeros_like(rows[:, 0])

    def derive(self, a: Tensor) -> Tensor:
        """Return rows with derived features recomputed in float64 and rounded once, ``(B, ...)``; differentiable."""
        if not self.derived:
            return a
        columns = list(a.double().flatten(1).unbind(1))
        for each in self.derived:
            assert each.value is not None
            assert each.derived is not None
            columns[each.derived] = each.value(torch.stack(columns, 1))
        return torch.stack(columns, 1).view_as(a).to(a.dtype)

    def reject_invalid(self, x: Tensor) -> None:
        """Raise unless every clean row keeps the rules and its whole numbers fit its dtype.

        Raises:
            DataError: the count of such rows, and the rule that most of them break.
        """
        broken = [words for words in self.first_broken(x) if words]
        if broken:
            words = max(set(broken), key=broken.count)
            raise DataError(
                f"{len(broken)} of {len(x)} clean rows break the rules, most of them {words!r}; "
                "correct the rules, or leave these rows out: keep = threat.rules.kept(x)"
            )
        most, rows = _LARGEST.get(x.dtype, 2**8), x.flatten(1)
        for at in self.integer:
            if float(rows[:, at].abs().max()) > most:
                raise DataError(f"{self.name(at)} exceeds {most}, the whole numbers of {x.dtype}; give float64 inputs")


def _are_whole(at: int, rows: Tensor) -> Tensor:
    """Return whether each row ``(B, F)`` holds a whole number in this feature."""
    return rows[:, at] == rows[:, at].round()


def _are_one_hot(group: tuple[int, ...], rows: Tensor) -> Tensor:
    """Return whether each row ``(B, F)`` has one 1 and else 0 in this group."""
    members = rows[:, list(group)]
    return ((members == 0) | (members == 1)).all(1) & (members.sum(1) == 1)

"""Rows of the ledger: one for each example and attack, in the order in which a single process writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, Any]

CLEAN = "clean"
"""Name of the unattacked examples' rows."""

CHUNK = 1024
"""Examples whose survivors are gathered before each attack: the unit of sharding. Late attacks have few survivors, and a
step costs a third as much an example at 64 rows as at 8."""

UNIT = 256
"""Examples attacked together at most: the unit of work and of resuming."""


def rows_of(stage: str, columns: Mapping[str, Tensor]) -> list[Row]:
    """Return one row for each example from columns ``(B,)``.

    Args:
        stage: name of the attack.
        columns: values of each example ``(B,)`` by name.

    Returns:
        Rows of the ledger.

    Example:
        >>> import torch
        >>> rows_of("pgd", {"id": torch.tensor([0, 1]), "broken": torch.tensor([False, True])})[1]
        {'attack': 'pgd', 'id': 1, 'broken': True}
    """
    table = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{"attack": stage, **dict(zip(columns, values, strict=True))} for values in table]


def broken_ids(rows: Iterable[Row]) -> set[int]:
    """Return the ids of the examples that some row broke.

    Args:
        rows: rows of a ledger.

    Returns:
        Example ids.
    """
    return {row["id"] for row in rows if row["broken"]}


CONTINUE_SHARE = 0.2
"""Share of the tried that must break for an attack meant for the nearest to go on to those behind them."""

FEWEST = 4
"""Examples that such an attack begins with at least: what a single one withstands says nothing about those behind it."""


def next_ids(past: Sequence[Row], stage: tuple[str, float], standing: Sequence[int]) -> list[int]:
    """Return the ids that an attack is tried on next, none when it is done with a chunk.

    An attack for a share of the examples takes those nearest to the boundary: of highest margin on the original model at the
    worst point found so far. While it breaks a fifth of what it tried, it takes as many again from those behind.

    Args:
        past: the chunk's rows so far, in order.
        stage: name of the attack, and the share of what stands that it begins with.
        standing: ids of the chunk that nothing has broken.

    Returns:
        Ids in increasing order.
    """
    name, share = stage
    mine = [row for row in past if row["attack"] == name]
    if share >= 1:
        return [] if mine else list(standing)
    if mine and len(broken_ids(mine)) < CONTINUE_SHARE * len(mine):
        return []
    tried = {row["id"] for row in mine}
    margin = {i: -math.inf for i in standing if i not in tried}
    for row in past:
        if row["id"] in margin:
            margin[row["id"]] = max(margin[row["id"]], row["margin"])
    nearest = sorted(margin, key=lambda i: (-margin[i], i))
    return sorted(nearest[: len(mine) or max(FEWEST, math.ceil(share * len(standing)))])


@dataclass(frozen=True)
class Batching:
    """How many examples an attack gets at once; it affects time and the rounding of the kernels, never which are attacked.

    Attributes:
        rows: examples attacked together at most.
        chunks: chunks that share a batch: the late attacks of one chunk cannot occupy a large GPU.
    """

    rows: int = UNIT
    chunks: int = 1

    def header(self) -> dict[str, int]:
        """Return what a ledger's header states: nothing for the default, so that ledgers of CPUs are what they were."""
        return {} if self == Batching() else {"batch_rows": self.rows, "batch_chunks": self.chunks}

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> Batching:
        """Return the batching that a ledger's header states."""
        return cls(header.get("batch_rows", UNIT), header.get("batch_chunks", 1))


def units(ids: Sequence[int], size: int = UNIT) -> list[list[int]]:
    """Return the ids in groups of at most ``size``, which are attacked, written and resumed together.

    Args:
        ids: example ids of a chunk.
        size: largest number of ids in a group.

    Returns:
        Groups of ids, in order.

    Example:
        >>> units([4, 5, 7], size=2)
        [[4, 5], [7]]
    """
    return [list(ids[first : first + size]) for first in range(0, len(ids), size)]


def complete_rows(rows: Iterable[Row], stages: Sequence[tuple[str, float]], n: int) -> list[Row]:
    """Return the rows of the units of work that were written whole, in the order of a single process.

    A crash may cut a unit's rows short; that unit then runs again, and its rows are the same. Rows may come in any order and
    twice, as several processes write them.

    Args:
        rows: as read from one or more ledgers.
        stages: name of each attack and the share of the survivors that it begins with.
        n: how many examples there are.

    Returns:
        Rows of complete units, without duplicates.
    """
    found = {(row["attack"], row["id"]): row for row in rows}
    chunks = (range(first, min(first + CHUNK, n)) for first in range(0, n, CHUNK))
    return [row for ids in chunks for row in _complete_chunk(found, stages, ids)]


def _complete_chunk(
    found: Mapping[tuple[str, int], Row], stages: Sequence[tuple[str, float]], ids: Iterable[int]
) -> list[Row]:
    done: list[Row] = []
    survivors = list(ids)
    for stage in stages:
        while tried := next_ids(done, stage, survivors):
            for unit in units(tried):
                keys = [(stage[0], i) for i in unit]
                if any(key not in found for key in keys):
                    return done
                done += [found[key] for key in keys]
            lost = broken_ids(done)
            survivors = [i for i in survivors if i not in lost]
    return done

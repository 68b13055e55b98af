"""Rows of the ledger: one for each example and attack, in the order in which a single process writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, Any]

CLEAN = "clean"
"""Attack name in the rows of the unattacked examples."""

CHUNK = 1024
"""Examples whose survivors are gathered before each attack, and the unit of sharding. Late attacks have few survivors, and
at 64 rows a step costs a third as much an example as at 8."""

UNIT = 256
"""Largest number of examples attacked together: the unit of work and of resuming."""


def rows_of(stage: str, columns: Mapping[str, Tensor | Sequence[Any]]) -> list[Row]:
    """Return one row for each example from columns ``(B,)``.

    Args:
        stage: name of the attack.
        columns: values of each example ``(B,)`` by name, a tensor or a list.

    Returns:
        Rows of the ledger.

    Example:
        >>> import torch
        >>> rows_of("pgd", {"id": torch.tensor([0, 1]), "broken": torch.tensor([False, True])})[1]
        {'attack': 'pgd', 'id': 1, 'broken': True}
    """
    values = (column if isinstance(column, Sequence) else column.tolist() for column in columns.values())
    table = zip(*values, strict=True)
    return [{"attack": stage, **dict(zip(columns, row, strict=True))} for row in table]


def score_of(row: Row) -> float:
    """Return the score of a row: its own, or 1 and 0 in tasks where an example is right or broken.

    Args:
        row: a row of a ledger.

    Example:
        >>> score_of({"broken": False, "score": 0.25}), score_of({"broken": True})
        (0.25, 0.0)
    """
    return float(row.get("score", not row["broken"]))


def worst_rows(rows: Iterable[Row]) -> dict[int, Row]:
    """Return each example's row of lowest score, then of highest margin, by id.

    Args:
        rows: rows of a ledger.

    Returns:
        Rows by example id.

    Example:
        >>> one = {"id": 0, "broken": False, "score": 0.5, "margin": 0.0}
        >>> worst_rows([one, one | {"score": 0.25}])[0]["score"]
        0.25
    """
    found: dict[int, Row] = {}
    for row in rows:
        best = found.get(row["id"])
        if best is None or (score_of(row), -row["margin"]) < (score_of(best), -best["margin"]):
            found[row["id"]] = row
    return found


def broken_ids(rows: Iterable[Row]) -> set[int]:
    """Return the ids of the examples that some row broke.

    Args:
        rows: rows of a ledger.

    Returns:
        Example ids.
    """
    return {row["id"] for row in rows if row["broken"]}


@dataclass(frozen=True)
class Batching:
    """Size of the batches of an evaluation; it affects time and rounding, but not which examples are attacked.

    Attributes:
        rows: largest number of examples attacked together.
        chunks: chunks that share batches: the late attacks of one chunk cannot fill a large GPU.
    """

    rows: int = UNIT
    chunks: int = 1

    def header(self) -> dict[str, int]:
        """Return the entries of a ledger's header: none for the default, so that ledgers of CPUs do not change."""
        return {} if self == Batching() else {"batch_rows": self.rows, "batch_chunks": self.chunks}

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> Batching:
        """Return the batching in a ledger's header."""
        return cls(header.get("batch_rows", UNIT), header.get("batch_chunks", 1))


def units(ids: Sequence[int], size: int = UNIT) -> list[list[int]]:
    """Split ids into groups of at most ``size`` that are attacked, written and resumed together.

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

"""Rows of the ledger: one for each example and attack, in the order in which a single process writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from advreg.evaluation.examples import CHUNK

Row = dict[str, Any]

CLEAN = "clean"
"""The name under which the unattacked example stands in the ledger."""


def rows_of(stage: str, columns: Mapping[str, Tensor]) -> list[Row]:
    """Return one row for each example from columns ``(B,)``."""
    table = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{"attack": stage, **dict(zip(columns, values, strict=True))} for values in table]


def broken_ids(rows: Iterable[Row]) -> set[int]:
    """Return the ids of the examples that some row broke."""
    return {row["id"] for row in rows if row["broken"]}


def complete(rows: list[Row], stages: list[str], n: int) -> list[Row]:
    """Return the rows up to the last attack on a chunk that was written whole.

    A crash may cut an attack's rows short; that attack then runs again on its chunk, and its rows are the same.
    """
    done = 0
    for first in range(0, n, CHUNK):
        standing = set(range(first, min(first + CHUNK, n)))
        for stage in stages:
            block = rows[done : done + len(standing)]
            if len(block) < len(standing) or any(row["attack"] != stage or row["id"] not in standing for row in block):
                return rows[:done]
            done += len(block)
            standing -= broken_ids(block)
    return rows[:done]

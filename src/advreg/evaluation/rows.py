"""Rows of the ledger: one for each example and attack, in the order in which a single process writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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


def chosen(rows: Iterable[Row], standing: Sequence[int], share: float) -> list[int]:
    """Return the ids that an attack is tried on: all that stand, or the share of them nearest to the boundary.

    Near means a high margin on the original model at the worst point that earlier attacks found.
    """
    if share >= 1 or not standing:
        return list(standing)
    margin = dict.fromkeys(standing, -math.inf)
    for row in rows:
        if row["id"] in margin:
            margin[row["id"]] = max(margin[row["id"]], row["margin"])
    nearest = sorted(standing, key=lambda i: (-margin[i], i))[: math.ceil(share * len(standing))]
    return sorted(nearest)


def whole(rows: Iterable[Row], stages: Sequence[tuple[str, float]], n: int) -> dict[int, list[Row]]:
    """Return, for the first id of each chunk, the rows of the attacks that were written whole, in order.

    A crash may cut an attack's rows short; that attack then runs again on its chunk, and its rows are the same. Rows may
    come in any order and twice, as several processes write them.

    Args:
        rows: as read from one or more ledgers.
        stages: name of each attack and the share of what stands that it is tried on.
        n: how many examples there are.
    """
    found = {(row["attack"], row["id"]): row for row in rows}
    return {first: _whole(found, stages, range(first, min(first + CHUNK, n))) for first in range(0, n, CHUNK)}


def _whole(found: Mapping[tuple[str, int], Row], stages: Sequence[tuple[str, float]], ids: Iterable[int]) -> list[Row]:
    done: list[Row] = []
    standing = list(ids)
    for name, share in stages:
        keys = [(name, i) for i in chosen(done, standing, share)]
        if any(key not in found for key in keys):
            break
        block = [found[key] for key in keys]
        done += block
        lost = broken_ids(block)
        standing = [i for i in standing if i not in lost]
    return done

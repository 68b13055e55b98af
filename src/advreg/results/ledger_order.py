"""The order of a ledger's rows: which examples an attack tries next, and which rows are complete units of work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from advreg.results.ledger_rows import CHUNK, UNIT
from advreg.results.ledger_table import Column, LedgerTable

Stage = tuple[str, float]
"""Name of an attack, and the share of the survivors that it begins with."""

CONTINUE_SHARE = 0.2
"""Share of its examples that an attack on the nearest must break to go on to those behind them."""

FEWEST = 4
"""Least number of examples that such an attack begins with: a single survivor says nothing about those behind it."""


def next_ids(past: LedgerTable, stage: Stage, survivors: Column) -> Column:
    """Return the ids that an attack tries next, none when it is done with a chunk.

    An attack on a share of the examples takes those nearest to the boundary: those with the highest margin at the worst point
    found so far, on the original model. While it breaks a fifth of what it tried, it takes as many again from those behind.

    Args:
        past: the chunk's rows so far, in order.
        stage: name of the attack, and the share of the survivors that it begins with.
        survivors: ids of the chunk that no attack has broken, increasing.

    Returns:
        Ids in increasing order.
    """
    name, share = stage
    mine = past.of(name)
    count = int(mine.sum())
    if share >= 1:
        return survivors[:0] if count else survivors
    if count and int(past["broken"][mine].sum()) < CONTINUE_SHARE * count:
        return survivors[:0]
    left = survivors[~np.isin(survivors, past["id"][mine])]
    margin = np.full(len(left), -math.inf)
    behind = np.isin(past["id"], left)
    np.maximum.at(margin, np.searchsorted(left, past["id"][behind]), past["margin"][behind])
    nearest = left[np.lexsort((left, -margin))]
    return np.sort(nearest[: count or max(FEWEST, math.ceil(share * len(survivors)))])


def complete_order(table: LedgerTable, stages: Sequence[Stage], n: int) -> tuple[Column, Column]:
    """Return the rows of the units of work that were written completely, in the order of a single process.

    A crash may truncate the rows of a unit, which then runs again with the same rows. Rows may come in any order and twice, as
    several processes write them; of two rows for one attack and example the later counts.

    Args:
        table: rows of one or more ledgers.
        stages: name of each attack and the share of the survivors that it begins with.
        n: number of examples.

    Returns:
        Places of the rows ``(R,)``, and whether each chunk is finished.
    """
    numbers = {name: k for k, (name, _) in enumerate(stages)}
    stage_of = np.array([numbers.get(name, -1) for name in table.attacks] or [-1])[table["attack"]]
    finished = np.zeros(math.ceil(n / CHUNK), bool)
    order = []
    for chunk, rows in _rows_of_chunks(table, stage_of, n):
        ids = np.arange(chunk * CHUNK, min((chunk + 1) * CHUNK, n))
        places = np.full((len(stages), len(ids)), -1)
        places[stage_of[rows], table["id"][rows] - ids[0]] = rows
        done, finished[chunk] = _walk_chunk(table, stages, ids, places)
        order += done
    return np.concatenate(order) if order else np.empty(0, np.int64), finished


def _rows_of_chunks(table: LedgerTable, stage_of: Column, n: int) -> Iterator[tuple[int, Column]]:
    """Yield each chunk that has rows, with their places in order."""
    known = np.flatnonzero((stage_of >= 0) & (table["id"] >= 0) & (table["id"] < n))
    chunk = table["id"][known] // CHUNK
    by_chunk = np.argsort(chunk, kind="stable")
    chunks, first = np.unique(chunk[by_chunk], return_index=True)
    yield from zip(chunks.tolist(), np.split(known[by_chunk], first)[1:], strict=True)


def _walk_chunk(table: LedgerTable, stages: Sequence[Stage], ids: Column, places: Column) -> tuple[list[Column], bool]:
    """Return the rows of complete units of a chunk in order, and whether none is missing."""
    done: list[Column] = []
    survivors = ids
    for k, stage in enumerate(stages):
        while len(tried := next_ids(_rows_so_far(table, done), stage, survivors)):
            for first in range(0, len(tried), UNIT):
                rows = places[k, tried[first : first + UNIT] - ids[0]]
                if (rows < 0).any():
                    return done, False
                done.append(rows)
        survivors = survivors[~np.isin(survivors, _rows_so_far(table, done).decided_ids)]
    return done, True


def _rows_so_far(table: LedgerTable, done: Sequence[Column]) -> LedgerTable:
    places = np.concatenate(done) if done else np.empty(0, np.int64)
    names = ("attack", "id", "broken", "margin", "proved")
    return LedgerTable(table.attacks, {name: table[name][places] for name in names if name in table.columns})

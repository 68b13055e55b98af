"""Columns of a ledger: about 60 bytes a row, so that millions of rows fit into memory where a list of dicts does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advreg.errors import RunError
from advreg.results.ledger_rows import Row
from advreg.runs.files import parse_block, read_blocks

Column = NDArray[Any]

_BLOCK = 4096  # rows that become columns at once
ABSENT = -2
"""Label of a row without one; -1 is the label None of tasks where a target is no whole number."""
_COLUMNS: dict[str, tuple[type, Any]] = {
    "id": (np.int64, None),
    "broken": (np.bool_, None),
    "label": (np.int32, ABSENT),
    "predicted": (np.int32, ABSENT),
    "distance": (np.float64, np.nan),
    "margin": (np.float64, np.nan),
    "forwards": (np.int32, 0),
    "backwards": (np.int32, 0),
}
_OPTIONAL = {"score": np.float64, "proved": np.float64, "corpus": np.object_}  # kept only where some row has them


@dataclass(frozen=True, eq=False)
class LedgerTable:
    """Rows of ledgers as columns, in the order in which they were read.

    Attributes:
        attacks: names of the attacks in the order of their first rows.
        columns: values by name, one of each row: ``attack`` (place in ``attacks``), ``id``, ``broken``, ``label``,
            ``predicted``, ``distance``, ``margin``, ``forwards``, ``backwards``; of rows in files also ``file``, ``start`` and
            ``stop``, the bytes of the row.
    """

    attacks: tuple[str, ...]
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(self.columns["id"])

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def __repr__(self) -> str:
        return f"LedgerTable({len(self)} rows of {', '.join(self.attacks) or 'no attack'})"

    def of(self, attack: str) -> Column:
        """Return whether each row is of this attack."""
        code = self.attacks.index(attack) if attack in self.attacks else -1
        return np.asarray(self["attack"] == code)

    def select(self, rows: Column) -> LedgerTable:
        """Return some rows.

        Args:
            rows: places, or whether to keep each row.
        """
        return LedgerTable(self.attacks, {name: column[rows] for name, column in self.columns.items()})

    def joined_with(self, other: LedgerTable) -> LedgerTable:
        """Return these rows and those of another table behind them."""
        return _concatenate([self, other])

    @cached_property
    def broken_ids(self) -> Column:
        """Ids of the examples that some row broke, increasing."""
        return np.unique(self["id"][self["broken"]])

    @cached_property
    def decided_ids(self) -> Column:
        """Ids of the examples that need no further attack, increasing: some row broke them, or a certificate proves them."""
        proved = self.columns.get("proved", np.zeros(len(self))) == 1
        return np.unique(self["id"][self["broken"] | proved])

    @property
    def has_scores(self) -> bool:
        """Return whether rows have scores of their own, as in tasks where outputs are better or worse."""
        return "score" in self.columns

    @property
    def scores(self) -> Column:
        """Score of each row: its own, or 1 and 0 in tasks where an example is right or broken."""
        plain = (~self["broken"]).astype(float)
        own = self.columns.get("score", plain)
        return np.where(np.isnan(own), plain, own)

    def worst(self) -> LedgerTable:
        """Return each example's row of lowest score, then of highest margin, by increasing id."""
        order = np.lexsort((-self["margin"], self.scores, self["id"]))
        ids = self["id"][order]
        return self.select(order[np.r_[True, ids[1:] != ids[:-1]]] if len(ids) else order)


def table_of(rows: Iterable[Row] | LedgerTable) -> LedgerTable:
    """Return rows as columns.

    Args:
        rows: rows of a ledger; a table is returned as it is.

    Returns:
        The table.

    Raises:
        RunError: a value that no column can hold.

    Example:
        >>> table = table_of([{"attack": "pgd", "id": 3, "broken": True}])
        >>> table, table.broken_ids.tolist()
        (LedgerTable(1 rows of pgd), [3])
    """
    if isinstance(rows, LedgerTable):
        return rows
    source = iter(rows)
    return _concatenate([_columns_of(block) for block in iter(lambda: list(islice(source, _BLOCK)), [])])


def read_table(*files: Path) -> LedgerTable:
    """Read ledgers in blocks into one table, with the place of every row in its file.

    Args:
        files: ledgers; the first line of each is its header.

    Returns:
        The table.

    Raises:
        RunError: a line is damaged.
    """
    return _concatenate([block for number, file in enumerate(files) for block in _read_blocks(file, number)])


def row_text(table: LedgerTable, files: Sequence[Path]) -> Iterator[bytes]:
    """Yield the lines of the rows as their files hold them, in the order of the table.

    Args:
        table: rows of `read_table`.
        files: its files.

    Yields:
        Lines with their ends, many at once.
    """
    opened = [np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8) for file in files]
    places = zip(table["file"].tolist(), table["start"].tolist(), table["stop"].tolist(), strict=True)
    for some in iter(lambda: list(islice(places, _BLOCK)), []):
        yield b"".join(opened[file][start:stop].tobytes() for file, start, stop in some)


def read_rows_at(table: LedgerTable, files: Sequence[Path]) -> list[Row]:
    """Return the rows of a table as their files hold them.

    Args:
        table: rows of `read_table`.
        files: its files.

    Returns:
        Rows, in the order of the table.
    """
    if not len(table):
        return []
    lines = b"".join(row_text(table, files)).splitlines(keepends=True)
    return parse_block(files[0], lines)


def _read_blocks(file: Path, number: int) -> Iterator[LedgerTable]:
    for offset, lines in read_blocks(file):
        stops = offset + np.cumsum([len(line) for line in lines], dtype=np.int64)
        starts = np.r_[offset, stops[:-1]]
        first = int(offset == 0)  # the header
        block = _columns_of(parse_block(file, lines[first:]), file)
        place = {"file": np.full(len(block), number, np.int16), "start": starts[first:], "stop": stops[first:]}
        yield LedgerTable(block.attacks, block.columns | place)


def _columns_of(rows: list[Row], file: Path | None = None) -> LedgerTable:
    try:
        names = {name: code for code, name in enumerate(dict.fromkeys(row["attack"] for row in rows))}
        columns = {"attack": np.array([names[row["attack"]] for row in rows], np.int16)}
        for (name, (kind, _)), values in zip(_COLUMNS.items(), _fields(rows), strict=True):
            columns[name] = np.array(values, kind)
        for name, kind in _OPTIONAL.items():
            if any(name in row for row in rows):
                columns[name] = _optional(rows, name, kind)
    except (KeyError, TypeError, ValueError, OverflowError) as cause:
        raise RunError(
            f"{file or 'the rows'}: a row of the ledger is damaged ({type(cause).__name__}: {cause}); restore it"
        ) from None
    return LedgerTable(tuple(map(str, names)), columns)


def _fields(rows: list[Row]) -> list[Sequence[Any]]:
    """Return the values of each column; rows that lack a key take three times as long."""
    try:
        fields: list[Sequence[Any]] = list(zip(*map(itemgetter(*_COLUMNS), rows), strict=True))
    except KeyError:
        fields = [(None,)]
    if not rows or any(None in values for values in fields):
        return [[_value(row, name, absent) for row in rows] for name, (_, absent) in _COLUMNS.items()]
    return fields


def _value(row: Row, name: str, absent: Any) -> Any:
    value = row[name] if absent is None else row.get(name, absent)
    return -1 if value is None else value


def _optional(rows: list[Row], name: str, kind: type) -> Column:
    column: Column = np.empty(len(rows), kind)
    column[:] = [row.get(name, np.nan) for row in rows]
    return column


def _concatenate(tables: Sequence[LedgerTable]) -> LedgerTable:
    if not tables:
        return _columns_of([])
    attacks = tuple(dict.fromkeys(name for table in tables for name in table.attacks))
    names = dict.fromkeys(name for table in tables for name in table.columns)
    columns = {name: np.concatenate([_of_table(table, name, attacks) for table in tables]) for name in names}
    return LedgerTable(attacks, columns)


def _of_table(table: LedgerTable, name: str, attacks: tuple[str, ...]) -> Column:
    """Return a column, with the numbers of the joined attacks, or NaN where the table lacks an optional one."""
    if name == "attack":
        codes = np.array([attacks.index(each) for each in table.attacks] or [0], np.int16)
        return np.asarray(codes[table["attack"]])
    return table.columns.get(name, np.full(len(table), np.nan))

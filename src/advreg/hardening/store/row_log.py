"""Rows in the audit log: each write transaction ends by appending every row that it changed, as the row is then.

The log alone rebuilds the tables, so that an edit past `Store.writing` differs from it. Long texts are logged by their SHA-256.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from advreg.errors import StoreError
from advreg.hardening.store.audit import Entry, append
from advreg.hardening.store.tables import audit, head, locks, metadata

Key = tuple[Any, ...]

ROW, IMPORTED = "row", "imported"
"""Actions of entries that hold a row: one that a transaction changed, and one that an earlier version had written."""
OPTION = "advreg_changes"
"""Execution option of a connection that writes: the changes of its transaction."""
_LONG, _CHUNK = 200, 400


@dataclass
class RowChanges:
    """Keys of the rows that a transaction changed.

    Attributes:
        keys: table -> primary keys.
        newest: table -> largest primary key before the insert in progress.
    """

    keys: dict[sa.Table, set[Key]] = field(default_factory=dict)
    newest: dict[sa.Table, int] = field(default_factory=dict)

    def add(self, table: sa.Table, keys: Iterable[Sequence[Any]]) -> None:
        """Add primary keys of a table."""
        self.keys.setdefault(table, set()).update(tuple(key) for key in keys)


@functools.cache
def logged_tables() -> tuple[sa.Table, ...]:
    """Return the tables that the log holds the rows of: all but the log itself and the leases."""
    return tuple(table for table in metadata.sorted_tables if table not in (audit, head, locks))


def watch_changes(engine: sa.Engine) -> None:
    """Record the keys of all rows that the engine's write transactions insert, update or delete.

    Args:
        engine: the store's engine.
    """
    event.listen(engine, "before_execute", _before)
    event.listen(engine, "after_execute", _after)


def append_changes(db: sa.Connection, at: float) -> None:
    """Append the rows that the transaction changed to the audit log.

    Args:
        db: from `Store.writing`, at its end.
        at: seconds since 1970.
    """
    changes: RowChanges = db.get_execution_options()[OPTION]
    changed = [(table, sorted(changes.keys[table])) for table in logged_tables() if table in changes.keys]
    if entries := [entry for table, keys in changed for entry in _entries(db, table, keys)]:
        append(db, at, entries)
    changes.keys.clear()


def _entries(db: sa.Connection, table: sa.Table, keys: Sequence[Key]) -> list[Entry]:
    found = dict(rows_of(db, table, keys)) if keys else {}
    return [Entry("store", ROW, subject(table, key), found.get(key)) for key in keys]


def rows_of(
    db: sa.Connection, table: sa.Table, keys: Sequence[Key] | None = None
) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Yield primary key and facts of rows.

    Args:
        db: an open transaction.
        table: their table.
        keys: primary keys; None for every row.
    """
    names, queries = _queries_of(table)
    for query, values in _chosen(queries, names, keys):
        for row in db.execute(query, values).mappings():
            yield tuple(row[name] for name in names), row_facts(row)


@dataclass(frozen=True)
class _RowQueries:
    """The queries for every row of a table, for that of one primary key, and for those of several."""

    every: sa.Select[Any]
    one: sa.Select[Any]
    several: sa.Select[Any]


@functools.cache
def _queries_of(table: sa.Table) -> tuple[list[str], _RowQueries]:
    """Return the names of a table's key columns and its queries; building them anew costs more than running them."""
    columns = list(table.primary_key.columns)
    every = sa.select(table).order_by(*columns)
    one = every.where(*(column == sa.bindparam(f"key_{column.name}") for column in columns))
    several = every.where(sa.tuple_(*columns).in_(sa.bindparam("keys", expanding=True)))
    return [column.name for column in columns], _RowQueries(every, one, several)


def _chosen(
    queries: _RowQueries, names: Sequence[str], keys: Sequence[Key] | None
) -> Iterator[tuple[sa.Select[Any], dict[str, Any]]]:
    """Yield queries with their values for some primary keys, or for every row."""
    if keys is None:
        yield queries.every, {}
    elif len(keys) == 1:
        yield queries.one, {f"key_{name}": value for name, value in zip(names, keys[0], strict=True)}
    else:
        for first in range(0, len(keys), _CHUNK):
            yield queries.several, {"keys": list(keys[first : first + _CHUNK])}


def row_facts(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the values of a row as the log holds them; columns without a value are left out.

    Args:
        row: column -> value.

    Example:
        >>> row_facts({"id": 1, "label": None, "manifest": "x" * 201})["manifest"][:14]
        'sha256:84a0678'
    """
    return {str(name): _plain(value) for name, value in row.items() if value is not None}


def subject(table: sa.Table, key: Key) -> str:
    """Return the name of a row in the log: its table and its primary key."""
    return " ".join([table.name, *map(str, key)])


def _plain(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LONG:
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def _written(db: sa.Connection, statement: Any) -> tuple[sa.Table, RowChanges] | None:
    """Return the logged table that a statement writes, with the changes to record it in; None for any other statement."""
    if not isinstance(statement, sa.Insert | sa.Update | sa.Delete):
        return None
    table: Any = statement.table
    if table not in logged_tables():
        return None
    changes: RowChanges | None = db.get_execution_options().get(OPTION)
    if changes is None:
        raise StoreError(f"{table.name} is written outside Store.writing; its rows must reach the audit log")
    return table, changes


def _before(db: sa.Connection, statement: Any, many: Sequence[Any], *_: Any) -> None:
    """Record the rows that an update or delete is about to change, or which number an insert goes on from."""
    if (written := _written(db, statement)) is None:
        return
    table, changes = written
    columns = list(table.primary_key.columns)
    if not isinstance(statement, sa.Insert):
        if many:
            raise StoreError(f"{table.name} is changed by a list of parameters; execute one statement for each")
        query = sa.select(*columns)
        changes.add(table, db.execute(query if statement.whereclause is None else query.where(statement.whereclause)))
    elif _is_numbered(table) and _hides_its_key(statement, many):
        changes.newest[table] = db.execute(sa.select(sa.func.max(*columns))).scalar() or 0


def _after(db: sa.Connection, statement: Any, many: Sequence[Any], *rest: Any) -> None:
    """Record the rows that an insert made."""
    if not isinstance(statement, sa.Insert) or (written := _written(db, statement)) is None:
        return
    table, changes = written
    columns = list(table.primary_key.columns)
    if not _hides_its_key(statement, many):
        changes.add(table, [rest[-1].inserted_primary_key])
    elif _is_numbered(table):
        changes.add(table, db.execute(sa.select(*columns).where(columns[0] > changes.newest[table])))
    elif many:
        changes.add(table, [[values[column.name] for column in columns] for values in many])
    else:
        raise StoreError(f"an insert into {table.name} returns columns; read them in a statement of their own")


def _hides_its_key(statement: sa.Insert, many: Sequence[Any]) -> bool:
    """Return whether the result of an insert lacks the primary key: of several rows, of a query, or with RETURNING."""
    return bool(many or statement.returning_column_descriptions or statement.select is not None)


def _is_numbered(table: sa.Table) -> bool:
    """Return whether the database numbers the rows of a table."""
    columns = list(table.primary_key.columns)
    return len(columns) == 1 and isinstance(columns[0].type, sa.Integer)

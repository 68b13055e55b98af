"""Verification of a store: the chain of its log, its tables against those that the log rebuilds, and its blobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from advreg.errors import StoreError
from advreg.hardening.store.audit import Entry, append, canonical, link
from advreg.hardening.store.blobs import Blobs
from advreg.hardening.store.row_log import IMPORTED, ROW, logged_tables, rows_of, subject
from advreg.hardening.store.tables import audit, examples, head, pruned

IMPORT = "import"
"""Action of the entry that precedes the rows which a store held before rows were logged."""
BLOBS = "advreg_blobs"
"""Execution option of a connection: the blobs that belong to the database."""
_NOTHING = hashlib.sha256(b"null").digest()

Logged = dict[str, tuple[int, bytes]]
"""Name of a row -> the newest entry that holds it, and the SHA-256 of its facts."""


@dataclass(frozen=True)
class Broken:
    """The first entry that does not verify, and the reason."""

    seq: int
    why: str


def verify(db: sa.Connection, blobs: Blobs | None = None) -> Broken | None:
    """Replay the log: verify the chain from its start, rebuild the tables, compare them row by row, hash every blob.

    Args:
        db: an open transaction.
        blobs: the bytes of the examples; those of the store that opened the transaction if None.

    Returns:
        The first difference, or None.
    """
    logged: Logged = {}
    blobs = blobs or db.get_execution_options().get(BLOBS)
    broken = verify_chain(db, logged) or _compare_tables(db, logged)
    return broken or (_compare_blobs(db, blobs) if blobs is not None else None)


def verify_chain(db: sa.Connection, logged: Logged | None = None) -> Broken | None:
    """Verify the hash chain of the log.

    Args:
        db: an open transaction.
        logged: receives the newest entry of each row.

    Returns:
        The first entry that does not verify, or None.
    """
    expected, count = "0" * 64, 0
    fault, imported = None, ImportedRows()
    for row in db.execute(sa.select(audit).order_by(audit.c.seq)):
        count += 1
        if row.seq != count:
            return Broken(count, f"entry {count} is missing")
        expected = link(expected, row.seq, row.at, row.actor, row.action, row.subject, row.detail)
        if row.digest != expected:
            return Broken(row.seq, f"entry {row.seq} ({row.action} {row.subject[:12]}) was changed")
        if logged is not None and row.action in (ROW, IMPORTED):
            logged[row.subject] = row.seq, hashlib.sha256(row.detail.encode()).digest()
        imported.add(row)
        if row.action == IMPORT and (why := json.loads(row.detail)["fault"]):
            fault = fault or Broken(row.seq, f"when its rows were imported: {why}")
    if (broken := imported.difference()) is not None:
        return broken
    last = db.execute(sa.select(head.c.seq, head.c.digest)).one()
    if tuple(last) != (count, expected):
        return Broken(count + 1, f"the log ends at entry {count}, its head is {last.seq}")
    return fault


@dataclass
class ImportedRows:
    """The imported rows of a log, compared with the hash that the import recorded before them.

    Attributes:
        seq: number of the import's entry; 0 before it.
        recorded: the recorded hash; None in a log of version 0.2 or earlier.
        rows: SHA-256 of the names and facts of the imported rows.
        count: their number.
    """

    seq: int = 0
    recorded: str | None = None
    rows: Any = field(default_factory=hashlib.sha256)
    count: int = 0

    def add(self, row: Any) -> None:
        """Take an entry of the log into account."""
        if row.action == IMPORT:
            self.seq, self.recorded = row.seq, json.loads(row.detail).get("sha256")
        elif row.action == IMPORTED:
            self.rows.update(_line(row.subject, row.detail))
            self.count += 1

    def difference(self) -> Broken | None:
        """Return the import's entry if the imported rows are not those that it recorded."""
        if self.recorded in (None, self.rows.hexdigest()):
            return None
        return Broken(self.seq, "the imported rows are not those that the import recorded")


def imported_rows(db: sa.Connection) -> ImportedRows:
    """Return the number of rows that the import of an older store found, and their hash, for a comparison with a backup.

    Args:
        db: an open transaction.
    """
    found = ImportedRows()
    wanted = sa.select(audit).where(audit.c.action.in_((IMPORT, IMPORTED)))
    for row in db.execute(wanted.order_by(audit.c.seq)):
        found.add(row)
    return found


def _line(name: str, detail: str) -> bytes:
    return f"{name} {detail}\n".encode()


def _compare_tables(db: sa.Connection, logged: Logged) -> Broken | None:
    last = db.execute(sa.select(head.c.seq)).scalar_one()
    for table in logged_tables():
        for key, facts in _readable_rows(db, table):
            name = subject(table, key)
            seq, digest = logged.pop(name, (last, _NOTHING))
            if isinstance(facts, str):
                return Broken(seq, f"{name} cannot be read: {facts}")
            if digest == _NOTHING:
                return Broken(seq, f"{name} is in the store and not in the log")
            if hashlib.sha256(canonical(facts).encode()).digest() != digest:
                return Broken(seq, f"{name}: {_difference(facts, _entry(db, seq))} (entry {seq})")
    missing = ((seq, name) for name, (seq, digest) in logged.items() if digest != _NOTHING)
    first = min(missing, default=None)
    return Broken(first[0], f"{first[1]} is in the log (entry {first[0]}) and not in the store") if first else None


def _readable_rows(db: sa.Connection, table: sa.Table) -> Iterator[tuple[tuple[Any, ...], dict[str, Any] | str]]:
    """Yield the rows of a table; a value that is no longer of its type ends it with the reason."""
    try:
        yield from rows_of(db, table)
    except (ValueError, TypeError, LookupError) as error:
        yield ("",), str(error)


def _difference(facts: Mapping[str, Any], logged: Mapping[str, Any]) -> str:
    name = next(name for name in sorted({*facts, *logged}) if facts.get(name) != logged.get(name))
    return f"{name} is {facts.get(name)!r}, the log says {logged.get(name)!r}"


def _entry(db: sa.Connection, seq: int) -> dict[str, Any]:
    detail: dict[str, Any] = json.loads(db.execute(sa.select(audit.c.detail).where(audit.c.seq == seq)).scalar_one())
    return detail


def _compare_blobs(db: sa.Connection, blobs: Blobs) -> Broken | None:
    last = db.execute(sa.select(head.c.seq)).scalar_one()
    kept = sa.select(examples.c.sha256).where(examples.c.sha256.not_in(sa.select(pruned.c.example)))
    for name in db.execute(kept.order_by(examples.c.id)).scalars():
        try:
            blobs.get(name)
        except StoreError as error:
            return Broken(last, str(error))
    return None


def import_rows(db: sa.Connection, at: float) -> None:
    """Log the rows of a store that was written before rows were logged, their hash first; one that logs them is left alone.

    Args:
        db: a write transaction.
        at: seconds since 1970.
    """
    begun = sa.select(audit.c.seq).where(audit.c.action == IMPORT)
    if db.execute(begun.where(audit.c.seq == 1)).first() or db.execute(begun.limit(1)).first():
        return
    fault = verify_chain(db) or _compare_states(db)
    rows = [(subject(table, key), facts) for table in logged_tables() for key, facts in rows_of(db, table)]
    sha256 = hashlib.sha256(b"".join(_line(name, canonical(facts)) for name, facts in rows)).hexdigest()
    append(db, at, [Entry("store", IMPORT, "tables", {"fault": fault and fault.why, "sha256": sha256})])
    append(db, at, [Entry("store", IMPORTED, name, facts) for name, facts in rows])


def _compare_states(db: sa.Connection) -> Broken | None:
    """Compare each example's state with the last one in the log, which is what version 0.1 could verify."""
    moves = sa.select(audit.c.subject, audit.c.detail).where(audit.c.action == "state").order_by(audit.c.seq)
    logged = {name: json.loads(detail)["to"] for name, detail in db.execute(moves)}
    for name, state in db.execute(sa.select(examples.c.sha256, examples.c.state)):
        if logged.pop(name, None) != state:
            return Broken(0, f"example {name[:12]} is {state!r}, which is not in the log")
    return Broken(0, f"example {next(iter(logged))[:12]} is in the log and not in the store") if logged else None

"""The audit log: a hash chain, so that a changed or deleted entry is detected.

    digest(k) = sha256(digest(k - 1), [k, at, actor, action, subject, detail])

Write access to the database is enough to forge the whole chain: anchor its head elsewhere, see `anchors.py` beside this file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from advreg.hardening.store.tables import audit, head


@dataclass(frozen=True)
class Entry:
    """One event: the actor, the action, its subject and further facts, None for a row that was deleted."""

    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any] | None


OPTION = "advreg_log_entries"
"""Execution option of a connection that writes: the log entries of its transaction."""


@dataclass
class LogEntries:
    """The entries of a transaction, chained as they come and written together when it ends.

    Attributes:
        last: number and digest of the newest entry; None until the head of the log was read.
        rows: the entries to write.
    """

    last: tuple[int, str] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, at: float, entry: Entry) -> None:
        """Chain an entry to the last one."""
        assert self.last is not None
        seq, detail = self.last[0] + 1, canonical(entry.detail)
        digest = link(self.last[1], seq, at, entry.actor, entry.action, entry.subject, detail)
        named = {"actor": entry.actor, "action": entry.action, "subject": entry.subject}
        self.rows.append({"seq": seq, "at": at, **named, "detail": detail, "digest": digest})
        self.last = seq, digest

    def write(self, db: sa.Connection) -> None:
        """Write the entries in one statement, and the new head."""
        if self.rows and self.last is not None:
            db.execute(audit.insert(), self.rows)
            db.execute(head.update(), {"seq": self.last[0], "digest": self.last[1]})
            self.rows.clear()


def append(db: sa.Connection, at: float, entries: Iterable[Entry]) -> str:
    """Append entries inside a write transaction and return the new head of the chain.

    They are written when the transaction of `Store.writing` ends, and at once on any other connection.

    Args:
        db: from `Store.writing`.
        at: seconds since 1970.
        entries: in order.
    """
    pending: LogEntries | None = db.get_execution_options().get(OPTION)
    chained = pending or LogEntries()
    if chained.last is None:
        chained.last = head_of(db)
    for entry in entries:
        chained.add(at, entry)
    if pending is None:
        chained.write(db)
    return chained.last[1]


def canonical(value: Any) -> str:
    """Return the canonical JSON text of a value.

    Args:
        value: dictionaries, lists, numbers, texts.

    Example:
        >>> canonical({"b": 1, "a": None})
        '{"a":null,"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def link(before: str, *fields: object) -> str:
    """Return the digest of an entry.

    Args:
        before: digest of the entry before it.
        fields: its fields, in the order of the module's formula.
    """
    return hashlib.sha256(f"{before}{canonical(list(fields))}".encode()).hexdigest()


def head_of(db: sa.Connection) -> tuple[int, str]:
    """Return the number of entries and the newest digest."""
    seq, digest = db.execute(sa.select(head.c.seq, head.c.digest)).one()
    return int(seq), str(digest)

"""The audit log: a hash chain, so that a changed or deleted entry is detected.

    digest(k) = sha256(digest(k - 1), [k, at, actor, action, subject, detail])

Write access to the database is enough to forge the whole chain: store the digest from `advreg harden audit` elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from advreg.hardening.store.tables import audit, examples, head


@dataclass(frozen=True)
class Entry:
    """One event: the actor, the action, its subject and further facts."""

    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class Broken:
    """The first entry that does not verify, and the reason."""

    seq: int
    why: str


def append(db: sa.Connection, at: float, entries: Iterable[Entry]) -> str:
    """Append entries inside a write transaction and return the new head of the chain.

    Args:
        db: from `Store.writing`.
        at: seconds since 1970.
        entries: in order.
    """
    seq, digest = db.execute(sa.select(head.c.seq, head.c.digest)).one()
    rows = []
    for entry in entries:
        seq, detail = seq + 1, canonical(entry.detail)
        digest = link(digest, seq, at, entry.actor, entry.action, entry.subject, detail)
        named = {"actor": entry.actor, "action": entry.action, "subject": entry.subject}
        rows.append({"seq": seq, "at": at, **named, "detail": detail, "digest": digest})
    if rows:
        db.execute(audit.insert(), rows)
        db.execute(head.update().values(seq=rows[-1]["seq"], digest=digest))
    return str(digest)


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


def verify(db: sa.Connection) -> Broken | None:
    """Verify the chain from its start, then compare each example's state with the last one in the log.

    Args:
        db: an open transaction.

    Returns:
        The first entry that does not verify, or None.
    """
    expected, count = "0" * 64, 0
    logged: dict[str, str] = {}
    for row in db.execute(sa.select(audit).order_by(audit.c.seq)):
        count += 1
        if row.seq != count:
            return Broken(count, f"entry {count} is missing")
        expected = link(expected, row.seq, row.at, row.actor, row.action, row.subject, row.detail)
        if row.digest != expected:
            return Broken(row.seq, f"entry {row.seq} ({row.action} {row.subject[:12]}) was changed")
        if row.action == "state":
            logged[row.subject] = json.loads(row.detail)["to"]
    last = db.execute(sa.select(head.c.seq, head.c.digest)).one()
    if tuple(last) != (count, expected):
        return Broken(count + 1, f"the log ends at entry {count}, its head is {last.seq}")
    for sha256, state in db.execute(sa.select(examples.c.sha256, examples.c.state)):
        if logged.pop(sha256, None) != state:
            return Broken(count, f"example {sha256[:12]} is {state!r}, which is not in the log")
    return Broken(count, f"example {next(iter(logged))[:12]} is in the log and not in the store") if logged else None


def head_of(db: sa.Connection) -> tuple[int, str]:
    """Return the number of entries and the newest digest."""
    seq, digest = db.execute(sa.select(head.c.seq, head.c.digest)).one()
    return int(seq), str(digest)

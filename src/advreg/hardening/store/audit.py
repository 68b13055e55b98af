"""The audit log: a hash chain, so that a changed or deleted entry is detected.

    digest(k) = sha256(digest(k - 1), [k, at, actor, action, subject, detail])

Write access to the database is enough to forge the whole chain: anchor its head elsewhere, see `anchors.py` beside this file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


def head_of(db: sa.Connection) -> tuple[int, str]:
    """Return the number of entries and the newest digest."""
    seq, digest = db.execute(sa.select(head.c.seq, head.c.digest)).one()
    return int(seq), str(digest)

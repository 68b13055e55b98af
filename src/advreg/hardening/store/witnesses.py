"""Witnesses: the senders of the same bytes. The first one does not own an example, and none of them may review it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from advreg.hardening.store.audit import Entry, append
from advreg.hardening.store.tables import examples, witnesses

_TRUST = ("internal", "customer", "anonymous")  # `advreg.hardening.store.tokens.Tier`, most trusted first


@dataclass(frozen=True)
class Sender:
    """A sender of an example: the token, the principal that it was sent for, and the trust in it."""

    token: str
    principal: str
    tier: str


def add_witness(db: sa.Connection, at: float, name: str, sender: Sender) -> None:
    """Record another sender of bytes that the store has; one that is known already changes nothing.

    Args:
        db: from `Store.writing`.
        at: seconds since 1970.
        name: the example's SHA-256.
        sender: the sender.
    """
    if sender in senders_of(db, name):
        return
    db.execute(witnesses.insert().values(example=name, at=at, **vars(sender)))
    append(db, at, [Entry(sender.token, "witness", name, {"principal": sender.principal, "tier": sender.tier})])


def senders_of(db: sa.Connection, name: str) -> list[Sender]:
    """Return the senders of an example, the first one first.

    Args:
        db: an open transaction.
        name: the example's SHA-256.
    """
    first = sa.select(examples.c.token, examples.c.principal, examples.c.tier).where(examples.c.sha256 == name)
    others = sa.select(witnesses.c.token, witnesses.c.principal, witnesses.c.tier).where(witnesses.c.example == name)
    rows = [*db.execute(first), *db.execute(others.order_by(witnesses.c.id))]
    return [Sender(*row) for row in rows]


def attribution_of(db: sa.Connection, row: Mapping[str, Any]) -> Sender:
    """Return the sender that an example counts against: the most trusted one, then the one with the fewest examples.

    The first sender is not enough: a principal at its cap could send the attacks of others first and so lock them out.

    Args:
        db: an open transaction.
        row: the example's row.
    """
    senders = senders_of(db, row["sha256"])
    if len(senders) == 1:
        return senders[0]
    return min(senders, key=lambda sender: (_TRUST.index(sender.tier), _examples_of(db, sender.principal)))


def _examples_of(db: sa.Connection, principal: str) -> int:
    count = sa.select(sa.func.count()).where(examples.c.principal == principal)
    return int(db.execute(count).scalar_one())


def sent_by(reviewer: str) -> sa.ColumnElement[bool]:
    """Return the condition on `examples` that a reviewer sent them: by token, as a principal, or as a user of a relay.

    Args:
        reviewer: the reviewer's name.
    """
    also = sa.select(witnesses.c.example).where(_is(witnesses, reviewer))
    return sa.or_(_is(examples, reviewer), examples.c.sha256.in_(also))


def _is(table: sa.Table, name: str) -> sa.ColumnElement[bool]:
    behind = table.c.principal.endswith(f"/{name}", autoescape=True)
    return sa.or_(table.c.token == name, table.c.principal == name, behind)

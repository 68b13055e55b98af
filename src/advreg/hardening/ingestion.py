"""Ingestion: received examples are clustered with their near-duplicates, scored and moved into quarantine."""

from __future__ import annotations

import sqlalchemy as sa

from advreg.hardening.media_types import Medium, medium_of
from advreg.hardening.perceptual_hash import cluster_near_duplicates, words
from advreg.hardening.review_priority import review_priority
from advreg.hardening.states import ExampleStatus
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row, examples_in_state, move
from advreg.hardening.store.tables import examples, reviews
from advreg.hardening.store.witnesses import sent_by

_ATTACKS = 500  # the newest known attacks that a new example is compared with


def ingest(store: Store) -> int:
    """Cluster and score every received example, move it to quarantine, and return the number of examples.

    Args:
        store: the store.
    """
    with store.writing() as db:
        new = examples_in_state(db, ExampleStatus.RECEIVED)
        if not new:
            return 0
        known = db.execute(
            sa.select(examples.c.id, examples.c.looks)
            .where(examples.c.cluster == examples.c.id)
            .order_by(examples.c.id)
        ).all()
        medium = medium_of(new[0]["kind"])  # a store belongs to one workspace, which keeps one medium
        groups = cluster_near_duplicates(
            [(row["id"], row["looks"]) for row in new], [(k, text) for k, text in known], medium.alike
        )
        attacks = words(_attacks(db, medium))
        for row in new:
            known_attack = len(medium.alike(words([row["looks"]])[0], attacks)) > 0
            score = review_priority(row["scores"], near_attack=known_attack)
            here = examples.update().where(examples.c.id == row["id"])
            db.execute(here.values(cluster=groups[row["id"]], suspicion=score))
        move(db, store.clock(), "intake", [row["sha256"] for row in new], ExampleStatus.QUARANTINED)
        return len(new)


def _attacks(db: sa.Connection, medium: Medium) -> list[str]:
    states = [ExampleStatus.ACCEPTED, ExampleStatus.IN_SNAPSHOT]
    found = sa.select(examples.c.looks).where(examples.c.state.in_(states)).order_by(examples.c.id.desc())
    if medium.attacks is not None:
        found = found.where(examples.c.label.in_(medium.attacks))
    return list(db.execute(found.limit(_ATTACKS)).scalars())


def _open_to(reviewer: str) -> sa.ColumnElement[bool]:
    """Return the condition that a reviewer has neither sent an example in nor reviewed it."""
    mine = sa.select(reviews.c.example).where(reviews.c.reviewer == reviewer, ~reviews.c.undone)
    return sa.and_(~sent_by(reviewer), examples.c.sha256.not_in(mine))


def queue(store: Store, reviewer: str, limit: int, second: bool = False) -> list[Row]:
    """Return the examples to review, by descending priority and one of each cluster of near-duplicates.

    Args:
        store: the store.
        reviewer: the reviewer's name; examples that they reviewed or sent in are left out.
        limit: largest number of examples.
        second: return examples that another reviewer labelled, to confirm them, instead of unlabelled ones.
    """
    ingest(store)
    state = ExampleStatus.REVIEWED if second else ExampleStatus.QUARANTINED
    order = (examples.c.suspicion.desc(), examples.c.id)
    seen: set[int] = set()
    found: list[Row] = []
    with store.reading() as db:
        if not second:
            done = sa.select(examples.c.cluster).where(examples.c.label.is_not(None))
            seen = set(db.execute(done).scalars())
        unsure = sa.select(examples).where(examples.c.state == state, ~examples.c.confirmed, _open_to(reviewer))
        for row in db.execute(unsure.order_by(*order)).mappings():
            if row["cluster"] in seen:
                continue
            seen.add(row["cluster"])
            found.append(dict(row))
            if len(found) == limit:
                break
    return found

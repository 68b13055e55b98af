"""Ingestion: received examples are clustered with their near-duplicates, scored and moved into quarantine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from advreg.hardening.media_types import Medium, medium_of
from advreg.hardening.perceptual_hash import cluster_near_duplicates, words
from advreg.hardening.review_priority import review_priority
from advreg.hardening.states import ExampleStatus
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row, examples_in_state, move
from advreg.hardening.store.tables import examples, predictions, reviews
from advreg.hardening.store.witnesses import sent_by

_CHAMPIONS = "champions"  # column of the champion's prediction
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


def queue(store: Store, reviewer: str, limit: int, second: bool = False, opinions: int = 2) -> list[Row]:
    """Return the examples to review, by descending priority: of each cluster of near-duplicates one for each prediction.

    A label speaks for the examples of its cluster that the deployed model predicted alike. An example with another prediction
    is shown, so that a harmless near-duplicate hides no attack. Predictions are the champion's; until the next cycle has made
    them, they are those that the senders claim.

    Args:
        store: the store.
        reviewer: the reviewer's name; examples that they reviewed or sent in are left out.
        limit: largest number of examples.
        second: return examples that other reviewers labelled, to confirm them, instead of unlabelled ones.
        opinions: number of reviews after which an example is confirmed.

    Returns:
        Rows of the store, at most ``limit``, each with the prediction that decided.
    """
    ingest(store)
    state = ExampleStatus.REVIEWED if second else ExampleStatus.QUARANTINED
    order = (examples.c.suspicion.desc(), examples.c.id)
    seen: set[tuple[int, int | None]] = set()
    found: list[Row] = []
    with store.reading() as db:
        labelled = Labelled() if second else _read_labels(db)
        unsure = _with_predictions(examples).where(examples.c.state == state, _open_to(reviewer), ~_has(opinions))
        for row in _with_prediction(db.execute(unsure.order_by(*order))):
            kind = row["cluster"], row["prediction"]
            if kind in seen or labelled.covers(row):
                continue
            seen.add(kind)
            found.append(row)
            if len(found) == limit:
                break
    return found


def _has(opinions: int) -> sa.ColumnElement[bool]:
    """Return the condition that an example is labelled and has so many reviews."""
    given = sa.select(reviews.c.example).where(~reviews.c.undone).group_by(reviews.c.example)
    return sa.and_(examples.c.label.is_not(None), examples.c.sha256.in_(given.having(sa.func.count() >= opinions)))


def _with_predictions(*columns: Any) -> sa.Select[Any]:
    """Select columns of `examples` with the champion's prediction, where there is one."""
    champions = predictions.c.prediction.label(_CHAMPIONS)
    return sa.select(*columns, champions).outerjoin_from(examples, predictions)


def _with_prediction(rows: sa.Result[Any]) -> Iterator[Row]:
    """Yield rows with the prediction that decides: the champion's, or else the sender's claim."""
    for row in rows.mappings():
        claimed = row[_CHAMPIONS] is None
        yield {**row, "prediction": row["prediction"] if claimed else row[_CHAMPIONS]}


@dataclass(frozen=True)
class Labelled:
    """The labels of the clusters, and which kinds of example they were given to.

    Attributes:
        labels: cluster -> labels of its reviewed examples.
        kinds: cluster and prediction of each labelled example; its principal too where the prediction is a claim.
    """

    labels: Mapping[int, set[int]] = field(default_factory=dict)
    kinds: Collection[tuple[int, int | None, str]] = ()

    def covers(self, row: Row) -> bool:
        """Return whether an example needs no review of its own.

        Its cluster has a label, and the prediction is that label, or an example with that prediction was labelled already.
        Where predictions are claims, only an example of the same principal counts: one principal's claims hide no error of
        another.
        """
        if row["cluster"] not in self.labels:
            return False
        if row["prediction"] is None or row["prediction"] in self.labels[row["cluster"]]:
            return True
        return _kind(row) in self.kinds


def _kind(row: Row) -> tuple[int, int | None, str]:
    claimed = row[_CHAMPIONS] is None
    return row["cluster"], row["prediction"], row["principal"] if claimed else ""


def _read_labels(db: sa.Connection) -> Labelled:
    columns = (examples.c.cluster, examples.c.prediction, examples.c.principal, examples.c.label)
    labels: dict[int, set[int]] = defaultdict(set)
    kinds: set[tuple[int, int | None, str]] = set()
    for row in _with_prediction(db.execute(_with_predictions(*columns).where(examples.c.label.is_not(None)))):
        labels[row["cluster"]].add(row["label"])
        kinds.add(_kind(row))
    return Labelled(dict(labels), kinds)

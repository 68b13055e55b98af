"""What happens to an example: it is received, moves from state to state, is reviewed. Each with its entry in the log."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from advreg.errors import HardeningError
from advreg.hardening.states import ExampleStatus, check_transition
from advreg.hardening.store.audit import Entry, append
from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import answers, examples, reviews

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Submission:
    """An example as it is handed in: bytes that were looked at already, and what the model server says of them.

    Attributes:
        content: the exact bytes.
        kind: ``png``, ``jpeg``, ``npy`` or ``text``.
        looks: fingerprint; see `advreg.hardening.perceptual_hash` and `advreg.hardening.texts.minhash`.
        token, principal, tier: who handed it in, on whose behalf, how far that one is trusted.
        model, prediction, scores: what the deployed model said; a text has no prediction.
        answer: what a language model answered.
        claimed: what the submitter says it is; kept, never trained on.
        suspicion: order of review; see `advreg.hardening.review_priority`.
    """

    content: bytes
    kind: str
    looks: str
    token: str
    principal: str
    tier: str
    model: str
    prediction: int | None
    scores: Sequence[float] | None = None
    claimed: int | None = None
    suspicion: float | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Receipt:
    """What the submitter gets: the example's id, where it stands, whether it was there before."""

    id: str
    state: ExampleStatus
    known: bool


def receive(store: Store, submissions: Sequence[Submission]) -> list[Receipt]:
    """Take submissions in, all or none; bytes that are there already count a copy more and nothing else.

    When this returns, a kill or a power cut loses nothing of them.

    Raises:
        StoreDown: the database or the bytes do not answer.
    """
    names = [store.blobs.put(submission.content) for submission in submissions]  # bytes first: a row promises them
    with store.writing() as db:
        return [_receive(db, store.clock(), name, given) for name, given in zip(names, submissions, strict=True)]


def _receive(db: sa.Connection, at: float, name: str, given: Submission) -> Receipt:
    mine = examples.c.sha256 == name
    there = db.execute(sa.select(examples.c.state).where(mine)).scalar()
    if there is not None:
        db.execute(examples.update().where(mine).values(copies=examples.c.copies + 1))
        return Receipt(name, ExampleStatus(there), known=True)
    kept = {key: value for key, value in vars(given).items() if key not in ("content", "answer")}
    facts = {"size": len(given.content), "copies": 1, "confirmed": False, "received_at": at}
    db.execute(examples.insert().values(sha256=name, state=ExampleStatus.RECEIVED, **facts, **kept))
    said = {key: kept[key] for key in ("principal", "tier", "model", "prediction", "claimed")}
    if given.answer is not None:
        db.execute(answers.insert().values(example=name, answer=given.answer))
        said["answer"] = hashlib.sha256(given.answer.encode()).hexdigest()
    append(db, at, [Entry(given.token, "state", name, {"to": ExampleStatus.RECEIVED, **said})])
    return Receipt(name, ExampleStatus.RECEIVED, known=False)


def move(db: sa.Connection, at: float, actor: str, ids: Sequence[str], to: ExampleStatus, **detail: Any) -> None:
    """Move examples to a state, in the transaction of the caller.

    Args:
        db: from `Store.writing`.
        at: seconds since 1970.
        actor: who does it.
        ids: their SHA-256.
        to: the new state; `advreg.hardening.states.TRANSITIONS` says which are allowed.
        detail: what else the log should say.

    Raises:
        HardeningError: an unknown example, or a step that is not allowed.
    """
    for name in ids:
        check_transition(f"example {name[:12]}", ExampleStatus(example(db, name)["state"]), to)
        db.execute(examples.update().where(examples.c.sha256 == name).values(state=to))
    append(db, at, [Entry(actor, "state", name, {"to": to, **detail}) for name in ids])


def example(db: sa.Connection, name: str) -> Row:
    """Return an example's row.

    Raises:
        HardeningError: there is none.
    """
    row = db.execute(sa.select(examples).where(examples.c.sha256 == name)).mappings().first()
    if row is None:
        raise HardeningError(f"no example {name[:12]!r}; give the SHA-256 that its submitter got")
    return dict(row)


def answer_to(db: sa.Connection, name: str) -> str | None:
    """Return what the deployed language model answered to a text, if its submitter said so."""
    found: str | None = db.execute(sa.select(answers.c.answer).where(answers.c.example == name)).scalar()
    return found


def in_state(db: sa.Connection, *states: ExampleStatus) -> list[Row]:
    """Return the examples in these states, oldest first."""
    found = sa.select(examples).where(examples.c.state.in_(states)).order_by(examples.c.id)
    return [dict(row) for row in db.execute(found).mappings()]


@dataclass(frozen=True)
class Verdict:
    """What a reviewer says of an example: a label, or none to reject it."""

    example: str
    reviewer: str
    label: int | None


def review(store: Store, verdict: Verdict, classes: int | None = None) -> ExampleStatus:
    """Write down a review and return the new state.

    The first label makes a quarantined example `reviewed`. The same label from a second reviewer confirms it; another one
    sends it back to quarantine, for reviewers have to agree.

    Raises:
        HardeningError: no such example or class, or it is not up for review by this reviewer.
    """
    if classes is not None and verdict.label is not None and not 0 <= verdict.label < classes:
        raise HardeningError(f"label is {verdict.label}; allowed: 0 to {classes - 1}")
    with store.writing() as db:
        at, row = store.clock(), example(db, verdict.example)
        given = standing_reviews(db, verdict.example)
        if any(old["reviewer"] == verdict.reviewer for old in given):
            raise HardeningError(f"{verdict.reviewer} has reviewed {verdict.example[:12]} already; undo that first")
        to = _after(row, verdict.label)
        if to == row["state"]:
            append(db, at, [Entry(verdict.reviewer, "confirm", verdict.example, {"label": verdict.label})])
        else:
            move(db, at, verdict.reviewer, [verdict.example], to, label=verdict.label)
        db.execute(reviews.insert().values(**vars(verdict), at=at, undone=False))
        _settle(db, verdict.example, to)
        return to


def _after(row: Row, label: int | None) -> ExampleStatus:
    """Return where a review leads."""
    if label is None:
        return ExampleStatus.REJECTED
    if row["state"] == ExampleStatus.REVIEWED:
        return ExampleStatus.REVIEWED if row["label"] == label else ExampleStatus.QUARANTINED
    return ExampleStatus.REVIEWED


def undo(store: Store, name: str, reviewer: str) -> ExampleStatus:
    """Take back this reviewer's last word on an example and return the new state.

    Raises:
        HardeningError: there is none, or the example has gone on since.
    """
    with store.writing() as db:
        at, row = store.clock(), example(db, name)
        mine = [old for old in standing_reviews(db, name) if old["reviewer"] == reviewer]
        if not mine:
            raise HardeningError(f"{reviewer} has no review of {name[:12]} to take back")
        db.execute(reviews.update().where(reviews.c.id == mine[-1]["id"]).values(undone=True))
        others = [old for old in standing_reviews(db, name) if old["label"] is not None]
        if row["state"] == ExampleStatus.REVIEWED and others:  # the other's label stands, no longer confirmed
            append(db, at, [Entry(reviewer, "undo", name, {})])
            _settle(db, name, ExampleStatus.REVIEWED)
            return ExampleStatus.REVIEWED
        move(db, at, reviewer, [name], ExampleStatus.QUARANTINED, undo=True)
        _settle(db, name, ExampleStatus.QUARANTINED)
        return ExampleStatus.QUARANTINED


def standing_reviews(db: sa.Connection, name: str) -> list[Row]:
    """Return the reviews of an example that were not taken back, oldest first."""
    found = sa.select(reviews).where(reviews.c.example == name, ~reviews.c.undone).order_by(reviews.c.id)
    return [dict(row) for row in db.execute(found).mappings()]


def _settle(db: sa.Connection, name: str, state: ExampleStatus) -> None:
    """Set label and confirmation from the reviews that stand; a way back to quarantine ends them all."""
    if state == ExampleStatus.QUARANTINED:
        db.execute(reviews.update().where(reviews.c.example == name).values(undone=True))
    labels = [old["label"] for old in standing_reviews(db, name) if old["label"] is not None]
    said = {"label": labels[0] if labels else None, "confirmed": len(labels) > 1 and len(set(labels)) == 1}
    db.execute(examples.update().where(examples.c.sha256 == name).values(**said))

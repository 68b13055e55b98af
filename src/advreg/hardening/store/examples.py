"""Life of an example: receipt, transitions and reviews, each with an entry in the audit log."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from advreg.errors import HardeningError
from advreg.hardening.states import ExampleStatus, check_transition
from advreg.hardening.store.audit import Entry, append
from advreg.hardening.store.consensus import consensus_of
from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import answers, examples, pruned, reviews
from advreg.hardening.store.witnesses import Sender, add_witness, sent_by

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Submission:
    """A validated example with the facts that the model server sends along.

    Attributes:
        content: the exact bytes.
        kind: ``png``, ``jpeg``, ``npy`` or ``text``.
        looks: fingerprint; see `advreg.hardening.perceptual_hash` and `advreg.hardening.texts.minhash`.
        token: name of the token that submitted it.
        principal: the user it was submitted for.
        tier: the trust in that user.
        model: version of the deployed model.
        prediction: class that the deployed model predicted; None for a text.
        scores: probabilities of the deployed model.
        answer: output of a deployed language model.
        claimed: the submitter's label; stored, never trained on.
        suspicion: review priority; see `advreg.hardening.review_priority`.
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
    """The submitter's receipt.

    Attributes:
        id: SHA-256 of the bytes.
        state: the example's state.
        known: whether the store had a row of it already.
        bytes: number of bytes that the store keeps more than before.
    """

    id: str
    state: ExampleStatus
    known: bool
    bytes: int = 0


def receive(
    store: Store,
    submissions: Sequence[Submission],
    check: Callable[[sa.Connection, Sequence[Receipt]], None] | None = None,
) -> list[Receipt]:
    """Store submissions, all or none; bytes that the store has already get another witness and one more copy.

    Submissions are durable when this returns: neither a kill nor a power cut loses them.

    Args:
        store: the store.
        submissions: validated examples.
        check: called at the end of the transaction; stores nothing if it raises.

    Returns:
        A receipt for each submission, in order.

    Raises:
        StoreDown: the database or the folder of bytes does not respond.
    """
    names = [store.blobs.put(submission.content) for submission in submissions]  # bytes first: a row refers to them
    with store.writing() as db:
        for submission in submissions:
            store.blobs.put(submission.content)  # nothing, unless they were swept as orphans before this lock
        receipts = [_receive(db, store.clock(), name, given) for name, given in zip(names, submissions, strict=True)]
        if check is not None:
            check(db, receipts)
        return receipts


_STATE = sa.select(examples.c.state).where(examples.c.sha256 == sa.bindparam("name"))


def _receive(db: sa.Connection, at: float, name: str, given: Submission) -> Receipt:
    state = db.execute(_STATE, {"name": name}).scalar()
    if state is not None:
        db.execute(examples.update().where(examples.c.sha256 == name).values(copies=examples.c.copies + 1))
        restored = db.execute(pruned.delete().where(pruned.c.example == name)).rowcount  # its bytes are here again
        add_witness(db, at, name, Sender(given.token, given.principal, given.tier))
        return Receipt(name, ExampleStatus(state), known=True, bytes=len(given.content) * restored)
    kept = {key: value for key, value in vars(given).items() if key not in ("content", "answer")}
    facts = {"size": len(given.content), "copies": 1, "confirmed": False, "received_at": at}
    db.execute(examples.insert(), {"sha256": name, "state": ExampleStatus.RECEIVED, **facts, **kept})
    detail = {key: kept[key] for key in ("principal", "tier", "model", "prediction", "claimed")}
    if given.answer is not None:
        db.execute(answers.insert().values(example=name, answer=given.answer))
        detail["answer"] = hashlib.sha256(given.answer.encode()).hexdigest()
    append(db, at, [Entry(given.token, "state", name, {"to": ExampleStatus.RECEIVED, **detail})])
    return Receipt(name, ExampleStatus.RECEIVED, known=False, bytes=len(given.content))


def move(db: sa.Connection, at: float, actor: str, ids: Sequence[str], to: ExampleStatus, **detail: Any) -> None:
    """Move examples to a state, in the caller's transaction.

    Args:
        db: from `Store.writing`.
        at: seconds since 1970.
        actor: name for the audit log.
        ids: their SHA-256.
        to: the new state; `advreg.hardening.states.TRANSITIONS` lists the allowed ones.
        detail: further facts for the audit log.

    Raises:
        HardeningError: an example is unknown, or the transition is not allowed.
    """
    for name in ids:
        check_transition(f"example {name[:12]}", ExampleStatus(example(db, name)["state"]), to)
        db.execute(examples.update().where(examples.c.sha256 == name).values(state=to))
    append(db, at, [Entry(actor, "state", name, {"to": to, **detail}) for name in ids])


def example(db: sa.Connection, name: str) -> Row:
    """Return an example's row.

    Args:
        db: an open transaction.
        name: its SHA-256.

    Raises:
        HardeningError: the example is unknown.
    """
    is_hash = re.fullmatch(r"[0-9a-f]{64}", name) is not None  # PostgreSQL takes no NUL
    wanted = sa.select(examples).where(examples.c.sha256 == name)
    row = db.execute(wanted).mappings().first() if is_hash else None
    if row is None:
        raise HardeningError(f"no example {name[:12]!r}; give the SHA-256 that its submitter got")
    return dict(row)


def answer_to(db: sa.Connection, name: str) -> str | None:
    """Return the deployed language model's output for a text; None if the submitter sent none.

    Args:
        db: an open transaction.
        name: the text's SHA-256.
    """
    found: str | None = db.execute(sa.select(answers.c.answer).where(answers.c.example == name)).scalar()
    return found


def examples_in_state(db: sa.Connection, *states: ExampleStatus) -> list[Row]:
    """Return the rows of the examples in these states, oldest first.

    Args:
        db: an open transaction.
        states: one or more states.
    """
    found = sa.select(examples).where(examples.c.state.in_(states)).order_by(examples.c.id)
    return [dict(row) for row in db.execute(found).mappings()]


@dataclass(frozen=True)
class Verdict:
    """A review: the reviewer's label of an example, or None to reject it."""

    example: str
    reviewer: str
    label: int | None


def review(store: Store, verdict: Verdict, classes: int | None = None) -> ExampleStatus:
    """Record a review and return the example's new state.

    `advreg.hardening.store.consensus.consensus_of` states the rule: the choice of most reviewers holds, so that two
    reviewers in agreement are never overturned by one.

    Args:
        store: the store.
        verdict: the review.
        classes: number of classes; None skips the check of the label.

    Returns:
        The example's new state.

    Raises:
        HardeningError: the example or the class is unknown, the reviewer has reviewed it already, or sent it in.
    """
    if classes is not None and verdict.label is not None and not 0 <= verdict.label < classes:
        raise HardeningError(f"label is {verdict.label}; allowed: 0 to {classes - 1}")
    with store.writing() as db:
        row = example(db, verdict.example)
        _require_reviewer(db, verdict)
        db.execute(reviews.insert().values(**vars(verdict), at=store.clock(), undone=False))
        return _settle(db, store.clock(), row, verdict.reviewer, "review", label=verdict.label)


def _require_reviewer(db: sa.Connection, verdict: Verdict) -> None:
    """Raise if the reviewer sent the example in, or has reviewed it."""
    if db.execute(
        sa.select(examples.c.id).where(examples.c.sha256 == verdict.example, sent_by(verdict.reviewer))
    ).first():
        raise HardeningError(f"{verdict.reviewer} sent in {verdict.example[:12]}; another reviewer has to review it")
    if any(old["reviewer"] == verdict.reviewer for old in active_reviews(db, verdict.example)):
        raise HardeningError(f"{verdict.reviewer} has reviewed {verdict.example[:12]} already; undo that first")


def undo(store: Store, name: str, reviewer: str) -> ExampleStatus:
    """Undo a reviewer's last review of an example and return the example's new state.

    Args:
        store: the store.
        name: the example's SHA-256.
        reviewer: the reviewer's name.

    Raises:
        HardeningError: the reviewer has no review of it, or the example was accepted since.
    """
    with store.writing() as db:
        row = example(db, name)
        mine = [old for old in active_reviews(db, name) if old["reviewer"] == reviewer]
        if not mine:
            raise HardeningError(f"{reviewer} has no review of {name[:12]} to undo")
        db.execute(reviews.update().where(reviews.c.id == mine[-1]["id"]).values(undone=True))
        return _settle(db, store.clock(), row, reviewer, "undo", undo=True)


def active_reviews(db: sa.Connection, name: str) -> list[Row]:
    """Return the reviews of an example that were not undone, oldest first.

    Args:
        db: an open transaction.
        name: the example's SHA-256.
    """
    found = sa.select(reviews).where(reviews.c.example == name, ~reviews.c.undone).order_by(reviews.c.id)
    return [dict(row) for row in db.execute(found).mappings()]


def _settle(db: sa.Connection, at: float, row: Row, actor: str, action: str, **detail: Any) -> ExampleStatus:
    """Set state, label and confirmation from the active reviews, and return the state."""
    name = row["sha256"]
    if db.execute(sa.select(pruned.c.at).where(pruned.c.example == name)).first():
        raise HardeningError(f"the bytes of {name[:12]} were deleted after their retention; submit them again")
    found = consensus_of([old["label"] for old in active_reviews(db, name)])
    if found.state == row["state"]:
        append(db, at, [Entry(actor, action, name, detail)])
    else:
        move(db, at, actor, [name], found.state, **detail)
    values = {"label": found.label, "confirmed": found.confirmed}
    db.execute(examples.update().where(examples.c.sha256 == name).values(**values))
    return found.state

"""Admission and snapshots: which reviewed examples are accepted, and which of them a challenger is trained on."""

from __future__ import annotations

import json

import sqlalchemy as sa

from advreg.hardening import registry
from advreg.hardening.cycle.context import ACTOR, CycleContext
from advreg.hardening.data_selection import Candidate, Selection, quarantine_over, select
from advreg.hardening.known_examples import SEEDER
from advreg.hardening.manifest import Snapshot
from advreg.hardening.states import ExampleStatus
from advreg.hardening.store.audit import Entry, append
from advreg.hardening.store.examples import Row, active_reviews, examples_in_state, move
from advreg.hardening.store.tables import members, predictions, snapshots
from advreg.hardening.store.witnesses import attribution_of
from advreg.hardening.workspace import BASE

_ACCEPTED = (ExampleStatus.ACCEPTED, ExampleStatus.IN_SNAPSHOT)


def accept_reviewed(context: CycleContext) -> None:
    """Accept reviewed examples after their quarantine if enough reviewers agree on the label."""
    caps, needed = context.workspace.config.bounds, context.workspace.config.caps.reviewers
    rule = f"label by {needed} reviewer(s), quarantine {caps.quarantine:g} s"
    with context.writing() as db:
        now = context.store.clock()
        ready = [
            row["sha256"]
            for row in examples_in_state(db, ExampleStatus.REVIEWED)
            if quarantine_over(_candidate(db, row), now, caps)
            and (needed == 1 or row["confirmed"])
            and row["token"] != SEEDER
        ]
        move(db, now, ACTOR, ready, ExampleStatus.ACCEPTED, rule=rule)
    if ready:
        one = "; one reviewer's label is enough (caps.reviewers = 1)" if needed == 1 else ""
        context.report(f"admission: {len(ready)} reviewed examples accepted{one}")


def _candidate(db: sa.Connection, row: Row) -> Candidate:
    sender, given = attribution_of(db, row), active_reviews(db, row["sha256"])
    prediction = sa.select(predictions.c.prediction).where(predictions.c.example == row["sha256"])
    return Candidate(
        id=row["sha256"],
        label=row["label"],
        reviewers=tuple(review["reviewer"] for review in given if review["label"] == row["label"]),
        principal=sender.principal,
        tier="reviewed" if row["confirmed"] and sender.tier != "internal" else sender.tier,
        cluster=row["cluster"],
        received_at=row["received_at"],
        prediction=db.execute(prediction).scalar(),  # the champion's: the sender's is a claim
    )


def due_snapshot(context: CycleContext) -> Snapshot | None:
    """Return the snapshot to train on: a new one if the examples or their shares of the loss changed, else the newest."""
    with context.writing() as db:
        newest = registry.newest_snapshot(db)
        candidates = [_candidate(db, row) for row in examples_in_state(db, *_ACCEPTED)]
        selection = select(candidates, context.backend.trusted_data["n"], context.workspace.config.bounds)
        before = json.loads(newest["manifest"]) if newest else {"members": []}
        shares = context.backend.loss_shares(selection)
        wanted = [(one.id, shares.get(one.id)) for one in selection.chosen]
        if [(member["id"], member.get("loss_share")) for member in before["members"]] == wanted:
            snapshot = Snapshot(**{k: v for k, v in before.items() if k != "schema"}) if newest else None
        else:
            snapshot = _write_snapshot(context, db, newest, selection)
    if snapshot is not None:  # a copy to read; the database holds the original
        file = context.workspace.folder.write(f"snapshots/{snapshot.id}.json", snapshot.text())
        context.workspace.signing.sign_file(file)
    return snapshot


def _write_snapshot(context: CycleContext, db: sa.Connection, newest: Row | None, selection: Selection) -> Snapshot:
    number = int(newest["id"][2:]) + 1 if newest else 1
    base = context.run(BASE).read_json("model.json")["sha256"]
    snapshot = context.backend.build_snapshot(context.store, f"s-{number:04d}", selection, base)
    at, sha256 = context.store.clock(), snapshot.sha256()
    db.execute(snapshots.insert().values(id=snapshot.id, sha256=sha256, manifest=snapshot.text(), at=at))
    names = [member["id"] for member in snapshot.members]
    if names:
        db.execute(members.insert(), [{"snapshot": snapshot.id, "example": name} for name in names])
    new = {row["sha256"] for row in examples_in_state(db, ExampleStatus.ACCEPTED)}
    append(db, at, [Entry(ACTOR, "snapshot", snapshot.id, {"sha256": sha256, "members": len(names)})])
    move(db, at, ACTOR, [name for name in names if name in new], ExampleStatus.IN_SNAPSHOT, snapshot=snapshot.id)
    excluded = ", ".join(f"{count} by {cap}" for cap, count in snapshot.left_out.items()) or "none"
    context.report(
        f"snapshot: {snapshot.id} holds {len(names)} examples beside {snapshot.clean['n']} clean ones; "
        f"kept out: {excluded}"
    )
    context.report(f"influence: {_shares_line(snapshot)}")
    return snapshot


def _shares_line(snapshot: Snapshot) -> str:
    """Return one line with the effective share of the loss of all examples and of the largest group of each kind."""
    total = snapshot.shares["total"].get("all", 0.0)
    largest = [
        f"{kind} {name} {part[name]:.2%}"
        for kind, part in snapshot.shares.items()
        if kind != "total" and part and (name := max(part, key=lambda k: part[k]))
    ]
    return f"{total:.2%} of the loss are the snapshot's examples; largest: {', '.join(largest) or 'none'}"

"""One tick of the loop. Each stage looks at what is written, does what is missing, and writes it down before the next begins.

    intake -> admission -> snapshot -> challenger -> trial -> gate -> promotion

Killed anywhere, the next tick goes on; with nothing new, it changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from advreg.errors import HardeningError
from advreg.hardening import registry
from advreg.hardening.backends.image import MediumBackend, backend_of
from advreg.hardening.data_selection import Candidate, Selection, Snapshot, quarantine_over, select, snapshot_of
from advreg.hardening.gate import Decision, gate
from advreg.hardening.ingestion import ingest
from advreg.hardening.lease import Lease, leased
from advreg.hardening.mlflow_sync import sync_to_mlflow
from advreg.hardening.states import ExampleStatus, ModelStatus
from advreg.hardening.store.audit import Entry, append
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row, in_state, move, standing_reviews
from advreg.hardening.store.tables import gates, members, models, snapshots, spent
from advreg.hardening.workspace import BASE, Workspace
from advreg.runs import RunFolder

ACTOR = "tick"
_LIVE = (ExampleStatus.ACCEPTED, ExampleStatus.IN_SNAPSHOT)
_OPEN = (ModelStatus.TRAINED, ModelStatus.EVALUATED, ModelStatus.PASSED)


@dataclass(frozen=True)
class Outcome:
    """What a tick did: one line for each stage that did something, and the gate's decision if there was one."""

    lines: tuple[str, ...] = ()
    decision: Decision | None = None
    champion: str | None = None


@dataclass(frozen=True)
class CycleContext:
    """What a tick works with."""

    home: Workspace
    store: Store
    lease: Lease
    work: MediumBackend
    say: Callable[[str], None]
    lines: list[str] = field(default_factory=list)

    def did(self, line: str) -> None:
        """Note what was done."""
        self.lines.append(line)
        self.say(line)

    def run(self, name: str) -> RunFolder:
        """Return a run folder of the home."""
        return RunFolder.at(self.home.folder / name)


def run_cycle(home: Workspace, store: Store | None = None, say: Callable[[str], None] = lambda line: None) -> Outcome:
    """Do everything that is due, once.

    Args:
        home: where the loop lives.
        store: its store, if it is open already.
        say: called with each line as it is done.

    Raises:
        Busy: another process is at it.
        StoreDown: the database does not answer.
        HardeningError: the home has no champion, or the sealed set is used up.
        ConfigError: attacks or data cannot be used.
    """
    work, store = backend_of(home), store or home.store()
    with leased(store) as lease:
        return _step(CycleContext(home, store, lease, work, say))


def _step(tick: CycleContext) -> Outcome:
    with tick.store.reading() as db:
        champion = registry.alias(db, registry.CHAMPION)
    if champion is None:
        raise HardeningError(f"{tick.home.folder.path} has no champion; run `advreg harden init` again in a new folder")
    if taken := ingest(tick.store):
        tick.did(f"intake: {taken} examples received, now in quarantine")
    tick.work.ask(tick.store)
    accept(tick)
    version = _open_version(tick) or _new_version(tick)
    decision = _judged(tick, version, champion) if version is not None else None
    with tick.store.reading() as db:
        return Outcome(tuple(tick.lines), decision, registry.alias(db, registry.CHAMPION))


def accept(tick: CycleContext) -> None:
    """Accept reviewed examples whose quarantine is over and on whose label enough reviewers agree."""
    caps, needed = tick.home.settings.bounds, tick.home.settings.caps.reviewers
    rule = f"label by {needed} reviewer(s), quarantine {caps.quarantine:g} s"
    with tick.store.writing() as db:
        tick.lease.check(db)
        now = tick.store.clock()
        ready = [
            row["sha256"]
            for row in in_state(db, ExampleStatus.REVIEWED)
            if quarantine_over(_candidate(db, row), now, caps) and (needed == 1 or row["confirmed"])
        ]
        move(db, now, ACTOR, ready, ExampleStatus.ACCEPTED, rule=rule)
    if ready:
        tick.did(f"admission: {len(ready)} reviewed examples accepted")


def _candidate(db: sa.Connection, row: Row) -> Candidate:
    return Candidate(
        id=row["sha256"],
        label=row["label"],
        reviewers=tuple(review["reviewer"] for review in standing_reviews(db, row["sha256"])),
        principal=row["principal"],
        tier="reviewed" if row["confirmed"] and row["tier"] != "internal" else row["tier"],
        cluster=row["cluster"],
        received_at=row["received_at"],
    )


def _open_version(tick: CycleContext) -> str | None:
    """Return the version that an earlier tick left unfinished."""
    unfinished = sa.select(models.c.version).where(models.c.stage.in_(_OPEN)).order_by(models.c.version)
    with tick.store.reading() as db:
        found: str | None = db.execute(unfinished).scalar()
    return found


def _new_version(tick: CycleContext) -> str | None:
    """Train a challenger on the newest snapshot; make a new snapshot first where what is accepted has changed."""
    snapshot = _snapshot(tick)
    if snapshot is None:
        return None
    run = tick.run(f"models/{snapshot.id}")
    with tick.store.reading() as db:
        done = db.execute(sa.select(models.c.version).where(models.c.snapshot == snapshot.id)).scalar()
        rows = {row["sha256"]: row for row in in_state(db, *ExampleStatus)}
    if done is not None:
        return None
    weights = tick.work.train(tick.store, [rows[member["id"]] for member in snapshot.members], run)
    if weights is None:
        return None
    version = registry.register(tick.store, f"models/{snapshot.id}", weights, snapshot=snapshot.id)
    tick.did(
        f"challenger: {version} trained from the trusted base and {len(snapshot.members)} examples of {snapshot.id}"
    )
    return version


def _snapshot(tick: CycleContext) -> Snapshot | None:
    """Return the snapshot that a challenger is due for: a new one, or the newest whose training was interrupted."""
    home = tick.home
    with tick.store.writing() as db:
        tick.lease.check(db)
        newest = registry.newest_snapshot(db)
        candidates = [_candidate(db, row) for row in in_state(db, *_LIVE)]
        selection = select(candidates, tick.work.clean["n"], home.settings.bounds)
        before = json.loads(newest["manifest"]) if newest else {"members": []}
        if [member["id"] for member in before["members"]] == [one.id for one in selection.chosen]:
            found = Snapshot(**{k: v for k, v in before.items() if k != "schema"}) if newest else None
        else:
            found = _write_snapshot(tick, db, newest, selection)
    if found is not None:
        home.folder.write(f"snapshots/{found.id}.json", found.text())  # a copy: the database holds the original
        if (left := tick.work.publish(found)) and found.id != (newest["id"] if newest else None):
            tick.did(left)
    return found


def _write_snapshot(tick: CycleContext, db: sa.Connection, newest: Row | None, selection: Selection) -> Snapshot:
    number = int(newest["id"][2:]) + 1 if newest else 1
    stream, base = tick.work.clean, tick.run(BASE).read_json("model.json")["sha256"]
    contents = tick.work.contents(tick.store, [one.id for one in selection.chosen])
    found = snapshot_of(f"s-{number:04d}", selection, base, stream, tick.home.settings.bounds, contents)
    at, sha256 = tick.store.clock(), found.sha256()
    db.execute(snapshots.insert().values(id=found.id, sha256=sha256, manifest=found.text(), at=at))
    names = [member["id"] for member in found.members]
    if names:
        db.execute(members.insert(), [{"snapshot": found.id, "example": name} for name in names])
    new = {row["sha256"] for row in in_state(db, ExampleStatus.ACCEPTED)}
    append(db, at, [Entry(ACTOR, "snapshot", found.id, {"sha256": sha256, "members": len(names)})])
    move(db, at, ACTOR, [name for name in names if name in new], ExampleStatus.IN_SNAPSHOT, snapshot=found.id)
    left = ", ".join(f"{count} by {cap}" for cap, count in found.left_out.items()) or "none"
    tick.did(f"snapshot: {found.id} holds {len(names)} examples beside {stream['n']} clean ones; kept out: {left}")
    return found


def _judged(tick: CycleContext, version: str, champion: str) -> Decision | None:
    """Bring an unfinished version through trial, gate and promotion."""
    with tick.store.reading() as db:
        row, reigning = registry.model(db, version), registry.model(db, champion)
    challenger_run, champion_run = tick.run(row["run"]), tick.run(reigning["run"])
    decision = None
    if row["stage"] != ModelStatus.PASSED:
        _refuse_used_up(tick, challenger_run)
        _try(tick, challenger_run, champion_run)
        if row["stage"] == ModelStatus.TRAINED:
            _mark(tick, version, ModelStatus.EVALUATED)
        decision = _decide(tick, version, champion, challenger_run, champion_run)
        if not decision.promote:
            return decision
    if not _promoted(tick, version):
        return decision
    tick.did(f"promotion: {version} is the champion, {champion} the previous one")
    sync_to_mlflow(tick.home, tick.store)
    return decision


def _promoted(tick: CycleContext, version: str) -> bool:
    """Promote a version over the champion that it was compared with; if another one reigns, the next tick compares again."""
    compared = sa.select(gates.c.champion).where(gates.c.challenger == version).order_by(gates.c.id.desc()).limit(1)
    with tick.store.reading() as db:
        over = str(db.execute(compared).scalar())
    try:
        registry.promote(tick.store, version, ACTOR, over=over)
    except registry.Changed as error:
        _mark(tick, version, ModelStatus.EVALUATED)
        tick.did(f"promotion: {error}")
        return False
    return True


def _refuse_used_up(tick: CycleContext, challenger: RunFolder) -> None:
    """Refuse to use sealed examples more often than was planned: each use has its share of alpha, and all are spent then."""
    planned, sealed = tick.home.settings.gate.gates, set(tick.work.sealed(challenger))
    uses = sa.select(spent.c.example, sa.func.count()).group_by(spent.c.example)
    with tick.store.reading() as db:
        used = {name: count for name, count in db.execute(uses) if name in sealed}
    if over := sum(count >= planned for count in used.values()):
        raise HardeningError(
            f"{over} of {len(sealed)} sealed examples were used {planned} times, as planned; rotate them: "
            f"{tick.work.rotate}"
        )


def _try(tick: CycleContext, challenger: RunFolder, champion: RunFolder) -> None:
    confirmed = (ExampleStatus.REVIEWED, *_LIVE)
    with tick.store.reading() as db:
        incidents = [row for row in in_state(db, *confirmed) if row["confirmed"]]
    tick.did(f"trial: {tick.work.trial(tick.store, incidents, challenger, champion)}")


def _mark(tick: CycleContext, version: str, stage: ModelStatus) -> None:
    with tick.store.writing() as db:
        tick.lease.check(db)
        registry.set_stage(db, tick.store.clock(), ACTOR, version, stage)


def _decide(
    tick: CycleContext, version: str, champion: str, challenger_run: RunFolder, champion_run: RunFolder
) -> Decision:
    """Ask the gate and write its decision down, with its hash in the log, in one transaction."""
    rules, sealed = tick.home.settings.gate, sorted(set(tick.work.sealed(challenger_run)))
    decision = gate(
        champion_run.path,
        challenger_run.path,
        protocol=tick.work.protocol(challenger_run),
        clean_margin=rules.clean_margin,
        slice_margin=rules.slice_margin,
        alpha=rules.alpha / rules.gates,
        classes=rules.classes,
        waivers=rules.waivers,
        require=tick.work.evidence,
        out=challenger_run.path,
    )
    with tick.store.writing() as db:
        tick.lease.check(db)
        at, sha256 = tick.store.clock(), decision.sha256
        record = json.dumps(decision.record(), sort_keys=True)
        names = {"champion": champion, "challenger": version, "verdict": decision.verdict}
        whole = hashlib.sha256("".join(sealed).encode()).hexdigest()
        facts = {"sealed": whole, "decision": sha256, "record": record, "at": at, **names}
        number = db.execute(gates.insert().values(**facts).returning(gates.c.id)).scalar()
        db.execute(spent.insert(), [{"example": name, "gate": number} for name in sealed])
        db.execute(models.update().where(models.c.version == version).values(decision=sha256))
        append(db, at, [Entry(ACTOR, "gate", version, {"decision": sha256, **names})])
        registry.set_stage(db, at, ACTOR, version, ModelStatus.PASSED if decision.promote else ModelStatus.REFUSED)
    tick.did(
        f"gate: {version} against {champion}: {decision.verdict}" + "".join(f"; {why}" for why in decision.reasons)
    )
    return decision

"""The registry: model versions, the aliases champion and previous, and who descends from what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from advreg.errors import HardeningError
from advreg.hardening.states import ExampleStatus, ModelStatus, check_transition
from advreg.hardening.store.audit import Entry, append
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row, example, move
from advreg.hardening.store.tables import aliases, members, models, snapshots

CHAMPION, PREVIOUS = "champion", "previous"


def register(
    store: Store,
    run: str,
    weights: str,
    stage: ModelStatus = ModelStatus.TRAINED,
    *,
    snapshot: str | None = None,
    actor: str = "tick",
) -> str:
    """Write down a model version and return its name; the same run is registered once.

    Args:
        store: the store.
        run: its run folder, as the home names it.
        weights: SHA-256 of its weights.
        stage: ``trained``, or ``trusted`` for one that is handed in.
        snapshot: what it was trained on.
        actor: who does it.
    """
    with store.writing() as db:
        known = db.execute(sa.select(models.c.version).where(models.c.run == run)).scalar()
        if known is not None:
            return str(known)
        version = f"m-{(db.execute(sa.select(sa.func.count()).select_from(models)).scalar() or 0) + 1:04d}"
        at = store.clock()
        facts = {"run": run, "weights": weights, "snapshot": snapshot}
        db.execute(models.insert().values(version=version, stage=stage, at=at, **facts))
        append(db, at, [Entry(actor, "model", version, {"to": stage, **facts})])
        return version


def register_initial_champion(store: Store, run: str, weights: str, actor: str) -> str:
    """Register a trusted base and make it the first champion.

    Raises:
        HardeningError: the store has another champion.
    """
    version = register(store, run, weights, ModelStatus.TRUSTED, actor=actor)
    with store.reading() as db:
        champion = current_champion(db)
    if champion is None:
        promote(store, version, actor)
    elif champion != version:
        raise HardeningError(f"the store {store.name} belongs to another loop; give an empty database")
    return version


def set_stage(db: sa.Connection, at: float, actor: str, version: str, to: ModelStatus, **detail: Any) -> None:
    """Move a model version to a stage, in the transaction of the caller.

    Raises:
        HardeningError: an unknown version, or a step that is not allowed.
    """
    check_transition(f"model {version}", ModelStatus(model(db, version)["stage"]), to)
    db.execute(models.update().where(models.c.version == version).values(stage=to))
    append(db, at, [Entry(actor, "model", version, {"to": to, **detail})])


def model(db: sa.Connection, version: str) -> Row:
    """Return a model version's row.

    Raises:
        HardeningError: there is none.
    """
    row = db.execute(sa.select(models).where(models.c.version == version)).mappings().first()
    if row is None:
        raise HardeningError(f"no model {version!r}; `advreg harden models` lists them")
    return dict(row)


def current_champion(db: sa.Connection) -> str | None:
    """Return the version of the champion; None before the first one."""
    return alias(db, CHAMPION)


def alias(db: sa.Connection, name: str) -> str | None:
    """Return the version that an alias stands for."""
    found: str | None = db.execute(sa.select(aliases.c.version).where(aliases.c.name == name)).scalar()
    return found


class ChampionChanged(HardeningError):
    """The champion has changed since the decision was made."""


def promote(store: Store, version: str, actor: str, *, expected_champion: str | None = None) -> None:
    """Make a version the champion and the champion the previous one: one transaction, both or neither.

    Args:
        store: the store.
        version: one that passed the gate, or is trusted.
        actor: who does it.
        expected_champion: the champion that the gate compared it with; None skips the check.

    Raises:
        HardeningError: it passed no gate and is not trusted.
        ChampionChanged: the champion is another one now.
    """
    with store.writing() as db:
        at, champion, previous = store.clock(), alias(db, CHAMPION), alias(db, PREVIOUS)
        if expected_champion is not None and champion != expected_champion:
            raise ChampionChanged(
                f"{version} was compared with {expected_champion}, and the champion is {champion} now; "
                "it has to be compared again"
            )
        if previous is not None:
            set_stage(db, at, actor, previous, ModelStatus.RETIRED)
        if champion is not None:
            set_stage(db, at, actor, champion, ModelStatus.PREVIOUS)
        set_stage(db, at, actor, version, ModelStatus.CHAMPION)
        _point(db, at, {CHAMPION: version, PREVIOUS: champion})


def rollback(store: Store, actor: str) -> str:
    """Make the previous champion the champion again, retire the present one, and return who it is now; nothing is trained.

    Raises:
        HardeningError: there is no previous champion.
    """
    with store.writing() as db:
        at, champion, previous = store.clock(), alias(db, CHAMPION), alias(db, PREVIOUS)
        if champion is None or previous is None:
            raise HardeningError("there is no previous champion to roll back to; promote another version instead")
        set_stage(db, at, actor, champion, ModelStatus.RETIRED, rolled_back=True)
        set_stage(db, at, actor, previous, ModelStatus.CHAMPION, rolled_back=True)
        _point(db, at, {CHAMPION: previous, PREVIOUS: None})
        return previous


def _point(db: sa.Connection, at: float, to: dict[str, str | None]) -> None:
    db.execute(aliases.delete().where(aliases.c.name.in_(list(to))))
    rows = [{"name": name, "version": version, "at": at} for name, version in to.items() if version is not None]
    db.execute(aliases.insert(), rows)


def listed(store: Store) -> list[dict[str, Any]]:
    """Return every version with its aliases, oldest first."""
    with store.reading() as db:
        names = {version: name for name, version in db.execute(sa.select(aliases.c.name, aliases.c.version))}
        rows = db.execute(sa.select(models).order_by(models.c.version)).mappings()
        return [{**row, "alias": names.get(row["version"])} for row in rows]


def examples_of(store: Store, version: str) -> list[str]:
    """Return the examples that a version was trained on.

    Raises:
        HardeningError: no such version.
    """
    with store.reading() as db:
        snapshot = model(db, version)["snapshot"]
        found = sa.select(members.c.example).where(members.c.snapshot == snapshot).order_by(members.c.example)
        return list(db.execute(found).scalars())


@dataclass(frozen=True)
class ExampleLineage:
    """What an example reached.

    Attributes:
        snapshots, models: that hold it, or were trained on one that does.
        champion: whether the champion is among them.
        rollback_to: the previous champion, where rolling back to it gets rid of the example; else None.
    """

    snapshots: tuple[str, ...]
    models: tuple[str, ...]
    champion: bool
    rollback_to: str | None


def trace_example(store: Store, name: str) -> ExampleLineage:
    """Return everything that an example reached.

    Raises:
        HardeningError: no such example.
    """
    with store.reading() as db:
        example(db, name)
        return _touched(db, name)


def revoke(store: Store, name: str, actor: str) -> ExampleLineage:
    """Take an example out for good: no later snapshot holds it. Return everything that it reached.

    Raises:
        HardeningError: no such example, or one that was never accepted.
    """
    with store.writing() as db:
        found = _touched(db, name)
        move(db, store.clock(), actor, [name], ExampleStatus.REVOKED, models=list(found.models))
        return found


def _touched(db: sa.Connection, name: str) -> ExampleLineage:
    held: Sequence[str] = sorted(db.execute(sa.select(members.c.snapshot).where(members.c.example == name)).scalars())
    trained = sorted(db.execute(sa.select(models.c.version).where(models.c.snapshot.in_(held))).scalars())
    champion, previous = alias(db, CHAMPION), alias(db, PREVIOUS)
    reached = champion in trained
    back = previous if reached and previous is not None and previous not in trained else None
    return ExampleLineage(tuple(held), tuple(trained), reached, back)


def snapshot(db: sa.Connection, name: str) -> Row:
    """Return a snapshot's row.

    Raises:
        HardeningError: there is none.
    """
    row = db.execute(sa.select(snapshots).where(snapshots.c.id == name)).mappings().first()
    if row is None:
        raise HardeningError(f"no snapshot {name!r}; the home's folder snapshots holds them")
    return dict(row)


def newest_snapshot(db: sa.Connection) -> Row | None:
    """Return the newest snapshot's row."""
    row = db.execute(sa.select(snapshots).order_by(snapshots.c.id.desc()).limit(1)).mappings().first()
    return None if row is None else dict(row)

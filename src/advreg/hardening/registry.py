"""The model registry: versions, the aliases champion and previous, and the lineage of models and examples."""

from __future__ import annotations

import json
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
    """Record a model version and return its name; a run is registered once.

    Args:
        store: the store.
        run: its run folder, relative to the workspace.
        weights: SHA-256 of its weights.
        stage: ``trained``, or ``trusted`` for the base.
        snapshot: id of the snapshot it was trained on.
        actor: name for the audit log.

    Returns:
        The version, such as ``m-0002``.
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

    Args:
        store: the store of a new workspace.
        run: the base's run folder, relative to the workspace.
        weights: SHA-256 of its weights.
        actor: name for the audit log.

    Returns:
        The version.

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
    """Move a model version to a stage, in the caller's transaction.

    Args:
        db: from `Store.writing`.
        at: seconds since 1970.
        actor: name for the audit log.
        version: such as ``m-0002``.
        to: the new stage.
        detail: further facts for the audit log.

    Raises:
        HardeningError: the version is unknown, or the transition is not allowed.
    """
    check_transition(f"model {version}", ModelStatus(model(db, version)["stage"]), to)
    db.execute(models.update().where(models.c.version == version).values(stage=to))
    append(db, at, [Entry(actor, "model", version, {"to": to, **detail})])


def model(db: sa.Connection, version: str) -> Row:
    """Return a model version's row.

    Args:
        db: an open transaction.
        version: such as ``m-0002``.

    Raises:
        HardeningError: the version is unknown.
    """
    row = db.execute(sa.select(models).where(models.c.version == version)).mappings().first()
    if row is None:
        raise HardeningError(f"no model {version!r}; `advreg harden models` lists them")
    return dict(row)


def current_champion(db: sa.Connection) -> str | None:
    """Return the version of the champion; None before the first one."""
    return alias(db, CHAMPION)


def alias(db: sa.Connection, name: str) -> str | None:
    """Return the version that an alias points to; None if it points to none.

    Args:
        db: an open transaction.
        name: `CHAMPION` or `PREVIOUS`.
    """
    found: str | None = db.execute(sa.select(aliases.c.version).where(aliases.c.name == name)).scalar()
    return found


class ChampionChanged(HardeningError):
    """The champion has changed since the decision was made."""


def promote(store: Store, version: str, actor: str, *, expected_champion: str | None = None) -> None:
    """Make a version the champion and the champion the previous one, in one transaction.

    Args:
        store: the store.
        version: a version that passed the gate, or a trusted one.
        actor: name for the audit log.
        expected_champion: the champion that the gate compared it with; None skips the check.

    Raises:
        HardeningError: the version has not passed the gate and is not trusted.
        ChampionChanged: the champion is another one now.
    """
    with store.writing() as db:
        at, champion, previous = store.clock(), alias(db, CHAMPION), alias(db, PREVIOUS)
        if expected_champion is not None and champion != expected_champion:
            raise ChampionChanged(
                f"{version} was compared with {expected_champion}, and the champion is {champion} now; "
                "it has to be compared again"
            )
        leaving = [(previous, ModelStatus.RETIRED), (champion, ModelStatus.PREVIOUS)]
        _hand_over(db, at, actor, [*leaving, (version, ModelStatus.CHAMPION)])


def rollback(store: Store, actor: str) -> str:
    """Make the previous champion the champion again and retire the current one; nothing is trained.

    Args:
        store: the store.
        actor: name for the audit log.

    Returns:
        The version that is the champion now.

    Raises:
        HardeningError: there is no previous champion.
    """
    with store.writing() as db:
        at, champion, previous = store.clock(), alias(db, CHAMPION), alias(db, PREVIOUS)
        if champion is None or previous is None:
            raise HardeningError("there is no previous champion to roll back to; promote another version instead")
        steps = [(champion, ModelStatus.RETIRED), (previous, ModelStatus.CHAMPION)]
        _hand_over(db, at, actor, steps, rolled_back=True)
        return previous


def _hand_over(
    db: sa.Connection, at: float, actor: str, steps: Sequence[tuple[str | None, ModelStatus]], **detail: Any
) -> None:
    """Move versions to their stages in this order, and point the aliases to the champion and the previous champion."""
    for version, stage in steps:
        if version is not None:
            set_stage(db, at, actor, version, stage, **detail)
    db.execute(aliases.delete())
    names = {ModelStatus.CHAMPION: CHAMPION, ModelStatus.PREVIOUS: PREVIOUS}
    rows = [
        {"name": names[stage], "version": version, "at": at}
        for version, stage in steps
        if stage in names and version is not None
    ]
    db.execute(aliases.insert(), rows)


def list_models(store: Store) -> list[dict[str, Any]]:
    """Return every version with its alias, oldest first."""
    with store.reading() as db:
        names = {version: name for name, version in db.execute(sa.select(aliases.c.name, aliases.c.version))}
        rows = db.execute(sa.select(models).order_by(models.c.version)).mappings()
        return [{**row, "alias": names.get(row["version"])} for row in rows]


def examples_of(store: Store, version: str) -> list[str]:
    """Return the ids of the submitted examples that a version was trained on.

    Args:
        store: the store.
        version: such as ``m-0002``.

    Raises:
        HardeningError: the version is unknown.
    """
    with store.reading() as db:
        snapshot = model(db, version)["snapshot"]
        found = sa.select(members.c.example).where(members.c.snapshot == snapshot).order_by(members.c.example)
        return list(db.execute(found).scalars())


@dataclass(frozen=True)
class ExampleLineage:
    """The snapshots and models that an example influenced.

    Attributes:
        snapshots: the snapshots that hold it.
        models: the versions trained on one of these snapshots.
        champion: whether the champion is one of these versions.
        rollback_to: the previous champion, if the champion was trained on the example and the previous one was not.
    """

    snapshots: tuple[str, ...]
    models: tuple[str, ...]
    champion: bool
    rollback_to: str | None


def trace_example(store: Store, name: str) -> ExampleLineage:
    """Return the snapshots and models that an example influenced.

    Args:
        store: the store.
        name: the example's SHA-256.

    Raises:
        HardeningError: the example is unknown.
    """
    with store.reading() as db:
        example(db, name)
        return _lineage(db, name)


def revoke(store: Store, name: str, actor: str) -> ExampleLineage:
    """Take an example out for good: no later snapshot holds it. Return everything that it reached.

    Raises:
        HardeningError: no such example, or one that was never accepted.
    """
    with store.writing() as db:
        found = _lineage(db, name)
        move(db, store.clock(), actor, [name], ExampleStatus.REVOKED, models=list(found.models))
        return found


def _lineage(db: sa.Connection, name: str) -> ExampleLineage:
    held: Sequence[str] = sorted(db.execute(sa.select(members.c.snapshot).where(members.c.example == name)).scalars())
    trained = sorted(db.execute(sa.select(models.c.version).where(models.c.snapshot.in_(held))).scalars())
    champion, previous = alias(db, CHAMPION), alias(db, PREVIOUS)
    reached = champion in trained
    back = previous if reached and previous is not None and previous not in trained else None
    return ExampleLineage(tuple(held), tuple(trained), reached, back)


def snapshot(db: sa.Connection, name: str) -> Row:
    """Return a snapshot's row.

    Args:
        db: an open transaction.
        name: such as ``s-0001``.

    Raises:
        HardeningError: the snapshot is unknown.
    """
    row = db.execute(sa.select(snapshots).where(snapshots.c.id == name)).mappings().first()
    if row is None:
        raise HardeningError(f"no snapshot {name!r}; the workspace's folder snapshots holds them")
    return dict(row)


def snapshot_members(db: sa.Connection, snapshot: str) -> list[Row]:
    """Return the entries of a snapshot's manifest; none if there is no such snapshot.

    Args:
        db: an open transaction.
        snapshot: its id, such as ``s-0001``.
    """
    text = db.execute(sa.select(snapshots.c.manifest).where(snapshots.c.id == snapshot)).scalar()
    return [] if text is None else list(json.loads(text)["members"])


def newest_snapshot(db: sa.Connection) -> Row | None:
    """Return the newest snapshot's row."""
    row = db.execute(sa.select(snapshots).order_by(snapshots.c.id.desc()).limit(1)).mappings().first()
    return None if row is None else dict(row)

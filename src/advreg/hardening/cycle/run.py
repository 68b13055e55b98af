"""Running the stages of a cycle in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from advreg.errors import HardeningError
from advreg.hardening import registry
from advreg.hardening.backends import backend_of
from advreg.hardening.cycle.context import ACTOR, CycleContext
from advreg.hardening.cycle.promotion import compare_and_promote
from advreg.hardening.cycle.snapshots import accept_reviewed, due_snapshot
from advreg.hardening.gate import Decision
from advreg.hardening.lease import hold_lease
from advreg.hardening.states import ModelStatus
from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import models
from advreg.hardening.workspace import BASE, Workspace

_UNFINISHED = (ModelStatus.TRAINED, ModelStatus.EVALUATED, ModelStatus.PASSED)


@dataclass(frozen=True)
class Outcome:
    """The result of a cycle.

    Attributes:
        lines: one line for each stage that changed something.
        decision: the gate's decision; None if the gate did not run.
        champion: the champion after the cycle.
    """

    lines: tuple[str, ...] = ()
    decision: Decision | None = None
    champion: str | None = None


def run_cycle(
    workspace: Workspace, store: Store | None = None, say: Callable[[str], None] = lambda line: None
) -> Outcome:
    """Run every stage that is due, once.

    Args:
        workspace: the workspace.
        store: its store, if it is open already.
        say: called with each line of the report.

    Returns:
        The report, the gate's decision and the champion.

    Raises:
        Busy: another process runs a cycle.
        StoreDown: the database does not respond.
        HardeningError: the workspace has no champion, or the sealed set is used up.
        ConfigError: attacks or data cannot be used.
    """
    backend, store = backend_of(workspace), store or workspace.store()
    with hold_lease(store) as lease:
        workspace.log_configuration(store, ACTOR)
        return _run_stages(CycleContext(workspace, store, lease, backend, say))


def _run_stages(context: CycleContext) -> Outcome:
    champion = context.champion()
    if champion is None:
        folder = context.workspace.folder.path
        raise HardeningError(f"{folder} has no champion; run `advreg harden init` again in a new folder")
    with context.store.reading() as db:
        used = {BASE, registry.model(db, champion)["run"]}
    for name in sorted(used):
        context.run(name)  # verifies its signature
    if count := context.backend.ingest(context.store):
        context.report(f"intake: {count} examples received, now in quarantine")
    accept_reviewed(context)
    version = _unfinished_version(context) or _new_version(context)
    decision = compare_and_promote(context, version, champion) if version is not None else None
    return Outcome(tuple(context.lines), decision, context.champion())


def _unfinished_version(context: CycleContext) -> str | None:
    """Return the version that an earlier cycle left unfinished."""
    query = sa.select(models.c.version).where(models.c.stage.in_(_UNFINISHED)).order_by(models.c.version)
    with context.store.reading() as db:
        version: str | None = db.execute(query).scalar()
    return version


def _new_version(context: CycleContext) -> str | None:
    """Return a challenger for the due snapshot; None if the snapshot has one already or its challenger is handed in."""
    snapshot = due_snapshot(context)
    if snapshot is None:
        return None
    with context.store.reading() as db:
        trained = db.execute(sa.select(models.c.version).where(models.c.snapshot == snapshot.id)).scalar()
    if trained is not None:
        return None
    return context.backend.provide_challenger(context.store, snapshot, context.report)

"""Handing in a challenger: a language model that was trained on a snapshot and evaluated elsewhere."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from advreg.errors import HardeningError
from advreg.hardening import registry
from advreg.hardening.gate.language import latest_protocol, read_language_results, weights_identity
from advreg.hardening.lease import hold_lease
from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import models
from advreg.hardening.texts.model_copy import copy_model
from advreg.hardening.workspace import Workspace
from advreg.hardening.workspace_audit import snapshot_difference
from advreg.runs import RunFolder


def hand_in(workspace: Workspace, run: str | Path, store: Store | None = None, snapshot: str | None = None) -> str:
    """Hand in a challenger and return its version; the next cycle compares it with the champion.

    Args:
        workspace: one that keeps texts.
        run: the challenger's run folder, evaluated like the champion; it is copied.
        store: the workspace's store, if it is open already.
        snapshot: id of the snapshot it was trained on, which is not verified; the newest one if None.

    Returns:
        The version, such as ``m-0002``.

    Raises:
        HardeningError: the workspace keeps images, the snapshot is unknown, was changed or is not signed, or the weights
            are registered already.
        RunError: the challenger was not evaluated.
        Busy: another process hands in a challenger now.
    """
    if workspace.config.keeps != "texts":
        raise HardeningError("this workspace keeps images, whose challengers are trained by advreg harden step")
    read_language_results(run, latest_protocol(run))
    store = store or workspace.store()
    with hold_lease(store, "challenge"):
        return _register(workspace, RunFolder.open(run), store, snapshot)


def _register(workspace: Workspace, run: RunFolder, store: Store, snapshot: str | None) -> str:
    weights = weights_identity(run)
    with store.reading() as db:
        trained_on = registry.snapshot(db, snapshot) if snapshot else registry.newest_snapshot(db)
        known = db.execute(sa.select(models.c.version).where(models.c.weights == weights)).scalar()
        number = (db.execute(sa.select(sa.func.count()).select_from(models)).scalar() or 0) + 1
    if trained_on is None:
        raise HardeningError("there is no snapshot yet to train a challenger on; run advreg harden step first")
    if known is not None:
        raise HardeningError(f"these weights are {known} already; train another challenger")
    if (why := snapshot_difference(workspace, trained_on)) is not None:
        raise HardeningError(f"{trained_on['id']} is not what reviewers accepted: {why}")
    place = f"models/{trained_on['id']}-{number}"
    copy_model(run.path, workspace, place)
    workspace.signing.sign_run(RunFolder.at(workspace.folder / place))
    return registry.register(store, place, weights, snapshot=trained_on["id"], actor="admin")

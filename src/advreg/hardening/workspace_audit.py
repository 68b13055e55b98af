"""The audit of a workspace: its store, and the files of models and snapshots that the store describes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from advreg.errors import AdvregError, HardeningError
from advreg.hardening.gate.language import weights_identity
from advreg.hardening.registry import CHAMPION, PREVIOUS
from advreg.hardening.store import Broken, Store, verify
from advreg.hardening.store.anchors import check_anchors
from advreg.hardening.store.audit import head_of
from advreg.hardening.store.examples import Row
from advreg.hardening.store.tables import aliases, models, snapshots
from advreg.hardening.workspace import Workspace
from advreg.runs import RunFolder


def audit_workspace(workspace: Workspace, store: Store, anchor: str = "") -> Broken | None:
    """Verify log, tables, blobs, anchored heads, and the files of models and snapshots.

    Args:
        workspace: the workspace.
        store: its store.
        anchor: where heads are anchored; "" for nowhere.

    Returns:
        The first difference, or None.
    """
    with store.reading() as db:
        broken = verify(db) or (check_anchors(db, anchor) if anchor else None)
        if broken is not None:
            return broken
        why = next(_file_differences(workspace, db), None)
        return Broken(head_of(db)[0], why) if why is not None else None


def _file_differences(workspace: Workspace, db: sa.Connection) -> Iterator[str]:
    folder = workspace.folder.path
    for snapshot in db.execute(sa.select(snapshots).order_by(snapshots.c.id)).mappings():
        exists = (folder / f"snapshots/{snapshot['id']}.json").is_file()
        if exists and (why := snapshot_difference(workspace, dict(snapshot))) is not None:
            yield why
    used = set(db.execute(sa.select(aliases.c.version).where(aliases.c.name.in_((CHAMPION, PREVIOUS)))).scalars())
    for row in db.execute(sa.select(models).order_by(models.c.version)):
        run = RunFolder(folder / row.run)
        if not run.path.is_dir():
            if row.version in used:
                yield f"{run.path} of {row.version} is missing"
            continue
        if (why := _model_difference(workspace, run, row.weights)) is not None:
            yield f"{row.version}: {why}"


def snapshot_difference(workspace: Workspace, row: Row) -> str | None:
    """Return how the files of a snapshot differ from the store, or from their signatures; None if they do not.

    The manifest must be the store's; a training file of texts beside it must be signed, where there are keys.

    Args:
        workspace: the workspace.
        row: the snapshot's row.
    """
    file = workspace.folder / f"snapshots/{row['id']}.json"
    if not file.is_file():
        return f"{file} is missing; advreg harden step writes it again"
    if file.read_bytes() != row["manifest"].encode():
        return f"{file} differs from the manifest in the store"
    try:
        for signed in snapshot_files(file):
            workspace.signing.verify_file(signed)
    except AdvregError as error:
        return str(error)
    return None


def snapshot_files(manifest: Path) -> list[Path]:
    """Return the files of a snapshot: its manifest, and the training file of texts if there is one.

    Args:
        manifest: such as ``snapshots/s-0001.json``.
    """
    return [file for file in (manifest, manifest.with_suffix(".jsonl")) if file.is_file()]


def _model_difference(workspace: Workspace, run: RunFolder, weights: str) -> str | None:
    try:
        found = weights_identity(run)
        if found != weights:
            return f"the weights in {run.path} have SHA-256 {found[:12]}, the log says {weights[:12]}"
        workspace.signing.verify_run(run)
    except AdvregError as error:
        return str(error)
    return None


def sign_workspace(workspace: Workspace, store: Store) -> list[str]:
    """Sign the models and snapshots of a workspace after comparing them with the log; return their names.

    Args:
        workspace: the workspace, with a private key.
        store: its store.

    Raises:
        HardeningError: a file is not that of the log.
    """
    unsigned = replace(workspace, config=workspace.config.replace_with({"signing.key": "", "signing.public": ""}))
    if (broken := audit_workspace(unsigned, store)) is not None:
        raise HardeningError(f"nothing is signed: {broken.why}")
    folder, names = workspace.folder, []
    with store.reading() as db:
        runs = db.execute(sa.select(models.c.run).order_by(models.c.version)).scalars().all()
        files = db.execute(sa.select(snapshots.c.id).order_by(snapshots.c.id)).scalars().all()
    for name in runs:
        if (folder / name).is_dir():
            workspace.signing.sign_run(RunFolder(folder / name))
            names.append(str(name))
    for name in files:
        for file in snapshot_files(folder / f"snapshots/{name}.json"):
            workspace.signing.sign_file(file)
            names.append(f"snapshots/{file.name}")
    return names

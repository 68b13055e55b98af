"""Retention: bytes that are no longer needed are deleted, and what killed writers left behind is swept."""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from advreg.errors import StoreError
from advreg.hardening.ingestion import ingest
from advreg.hardening.states import ExampleStatus
from advreg.hardening.store.audit import Entry, append
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import move
from advreg.hardening.store.tables import examples, pruned

_DAY = 86_400.0
_SCRATCH = re.compile(r"\..+\.\d+\.tmp")
_YOUNG = 3600.0  # seconds in which a file may belong to an upload in progress
_ENDED = (ExampleStatus.QUARANTINED, ExampleStatus.REJECTED, ExampleStatus.REVOKED)


@dataclass(frozen=True)
class PruneReport:
    """What was deleted: bytes of old examples, blobs without an example, temporary files, and the bytes of all."""

    examples: int
    orphans: int
    temporary: int
    bytes: int


def prune(store: Store, keep_days: float, actor: str = "admin", home: Path | None = None) -> PruneReport:
    """Delete the bytes of old examples that train nothing, then blobs without an example and temporary files.

    An example that is still unreviewed is rejected. Rows, reviews and the audit log remain, so lineage stays complete.

    Args:
        store: the store.
        keep_days: age at which rejected, revoked and unreviewed examples lose their bytes; 0 keeps them.
        actor: name for the audit log.
        home: folder of the workspace, swept of the temporary files of killed writers too; None leaves it alone.

    Returns:
        The numbers of what was deleted.
    """
    ingest(store)
    old = _prune_examples(store, keep_days, actor) if keep_days else 0
    orphans, temporary, size = _sweep(store)
    more, bytes_more = sweep_folder(home) if home is not None else (0, 0)
    return PruneReport(old, orphans - old if orphans >= old else 0, temporary + more, size + bytes_more)


def sweep_folder(folder: Path) -> tuple[int, int]:
    """Delete the temporary files that killed writers left in a folder, and return their number and bytes.

    They are those of `advreg.runs.files.write_atomic` (``.NAME.PROCESS.tmp``) that are older than an hour. Links are neither
    deleted nor followed.

    Args:
        folder: the folder.

    Raises:
        StoreError: a file cannot be deleted.
    """
    count = size = 0
    for place, _, names in os.walk(folder):
        for file in (Path(place, name) for name in names if _SCRATCH.fullmatch(name)):
            facts = file.lstat()
            if not stat.S_ISREG(facts.st_mode) or time.time() - facts.st_mtime < _YOUNG:
                continue
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(f"cannot delete {file}: {error.strerror}; check the folder") from error
            count, size = count + 1, size + facts.st_size
    return count, size


def _prune_examples(store: Store, keep_days: float, actor: str) -> int:
    gone = sa.select(pruned.c.example)
    before = store.clock() - keep_days * _DAY
    due = sa.select(examples.c.sha256, examples.c.state).where(
        examples.c.state.in_(_ENDED), examples.c.received_at < before, examples.c.sha256.not_in(gone)
    )
    with store.writing() as db:
        at, found = store.clock(), db.execute(due).all()
        if not found:
            return 0
        unreviewed = [row.sha256 for row in found if row.state == ExampleStatus.QUARANTINED]
        move(db, at, actor, unreviewed, ExampleStatus.REJECTED, rule=f"not reviewed in {keep_days:g} days")
        db.execute(pruned.insert(), [{"example": row.sha256, "at": at} for row in found])
        append(db, at, [Entry(actor, "pruned", row.sha256, {}) for row in found])
    return len(found)


def _sweep(store: Store) -> tuple[int, int, int]:
    """Delete files that no example needs; the write lock keeps uploads from naming one of them meanwhile."""
    orphans = temporary = size = 0
    with store.writing() as db:
        gone = sa.select(pruned.c.example)
        needed = set(db.execute(sa.select(examples.c.sha256).where(examples.c.sha256.not_in(gone))).scalars())
        ended = set(db.execute(gone).scalars())
        for path, length, age in store.blobs.files_with_age():
            name = path.rpartition("/")[2]
            is_blob = re.fullmatch(r"[0-9a-f]{64}", name) is not None
            if name in needed or (age < _YOUNG and name not in ended) or not (is_blob or name.endswith(".tmp")):
                continue
            store.blobs.delete(path)
            orphans += is_blob
            temporary += not is_blob
            size += length
    return orphans, temporary, size

"""Asking the previous champion: where it says something else than the deployed model did, a human should look early."""

from __future__ import annotations

import sqlalchemy as sa

from advreg import models
from advreg.attacks.verification import logits_of
from advreg.hardening import registry
from advreg.hardening.datasets import pixels_of
from advreg.hardening.states import ExampleStatus
from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import examples
from advreg.hardening.workspace import Workspace

_CHUNK = 500


def ask_previous(home: Workspace, store: Store) -> int:
    """Ask the previous champion about what waits in quarantine and was not asked about; return how much that was."""
    with store.reading() as db:
        version = registry.alias(db, registry.PREVIOUS)
        unasked = sa.select(examples.c.sha256, examples.c.prediction).where(
            examples.c.state == ExampleStatus.QUARANTINED, examples.c.disagrees.is_(None)
        )
        rows = db.execute(unasked).all() if version is not None else []
        run = registry.model(db, version)["run"] if version is not None else ""
    channels, height, width = home.model()["shape"]
    for first in range(0, len(rows), _CHUNK):
        part = rows[first : first + _CHUNK]
        x = pixels_of(store, [name for name, _ in part], (channels, height, width))
        found = logits_of(models.load(str(home.folder / run)), x).argmax(1).tolist()
        with store.writing() as db:
            for (name, said), predicted in zip(part, found, strict=True):
                here = examples.update().where(examples.c.sha256 == name, examples.c.disagrees.is_(None))
                differs = predicted != said
                db.execute(here.values(disagrees=differs, suspicion=examples.c.suspicion + float(differs)))
    return len(rows)

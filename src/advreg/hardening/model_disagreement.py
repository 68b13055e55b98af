"""Model disagreement: examples that the previous champion classifies differently are reviewed earlier."""

from __future__ import annotations

import sqlalchemy as sa

from advreg import models
from advreg.attacks.verification import logits_of
from advreg.hardening import registry
from advreg.hardening.datasets import load_pixels
from advreg.hardening.states import ExampleStatus
from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import examples
from advreg.hardening.workspace import Workspace

_CHUNK = 500


def score_disagreement(workspace: Workspace, store: Store) -> int:
    """Query the previous champion on quarantined examples and add 1 to the review priority if it disagrees.

    Args:
        workspace: one that keeps images.
        store: its store.

    Returns:
        The number of examples queried; each is queried once.
    """
    with store.reading() as db:
        version = registry.alias(db, registry.PREVIOUS)
        waiting = sa.select(examples.c.sha256, examples.c.prediction).where(
            examples.c.state == ExampleStatus.QUARANTINED, examples.c.disagrees.is_(None)
        )
        rows = db.execute(waiting).all() if version is not None else []
        run = registry.model(db, version)["run"] if version is not None else ""
    shape = workspace.input_shape()
    for first in range(0, len(rows), _CHUNK):
        chunk = rows[first : first + _CHUNK]
        x = load_pixels(store, [name for name, _ in chunk], shape)
        predictions = logits_of(models.load(str(workspace.run(run).path)), x).argmax(1).tolist()
        with store.writing() as db:
            for (name, deployed), predicted in zip(chunk, predictions, strict=True):
                row = examples.update().where(examples.c.sha256 == name, examples.c.disagrees.is_(None))
                differs = predicted != deployed
                db.execute(row.values(disagrees=differs, suspicion=examples.c.suspicion + float(differs)))
    return len(rows)

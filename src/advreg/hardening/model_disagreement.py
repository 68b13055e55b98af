"""Model disagreement: examples that the previous champion classifies differently are reviewed earlier."""

from __future__ import annotations

import sqlalchemy as sa

from advreg.hardening import registry
from advreg.hardening.champion_predictions import query_version
from advreg.hardening.states import ExampleStatus
from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import examples, predictions
from advreg.hardening.workspace import Workspace


def score_disagreement(workspace: Workspace, store: Store) -> int:
    """Query the previous champion on quarantined examples and add 1 to the review priority if it disagrees with the champion.

    Args:
        workspace: one that keeps images.
        store: its store, after `advreg.hardening.champion_predictions.predict_examples`.

    Returns:
        The number of examples queried; each is queried once.
    """
    with store.reading() as db:
        version = registry.alias(db, registry.PREVIOUS)
        waiting = sa.select(examples.c.sha256, predictions.c.prediction).join(predictions)
        unscored = waiting.where(examples.c.state == ExampleStatus.QUARANTINED, examples.c.disagrees.is_(None))
        deployed = {row.sha256: row.prediction for row in db.execute(unscored)} if version is not None else {}
    for chunk, predicted in query_version(workspace, store, version, list(deployed)):
        with store.writing() as db:
            for name, label in zip(chunk, predicted, strict=True):
                row = examples.update().where(examples.c.sha256 == name, examples.c.disagrees.is_(None))
                differs = label != deployed[name]
                db.execute(row.values(disagrees=differs, suspicion=examples.c.suspicion + float(differs)))
    return len(deployed)

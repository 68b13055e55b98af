"""The champion's own predictions of submitted examples: the prediction that comes with an example is its sender's claim.

A sender that claims the true class would hide an attack behind a harmless near-duplicate, and one that claims another class
would have near-duplicates reviewed for ever. The claim stays in `examples`, the champion's prediction is kept beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from advreg import models
from advreg.attacks.verification import logits_of
from advreg.hardening import registry
from advreg.hardening.datasets import load_pixels
from advreg.hardening.states import ExampleStatus
from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import examples, predictions, pruned
from advreg.hardening.workspace import Workspace

_CHUNK = 500
_USED = (ExampleStatus.QUARANTINED, ExampleStatus.REVIEWED, ExampleStatus.ACCEPTED, ExampleStatus.IN_SNAPSHOT)


def predict_examples(workspace: Workspace, store: Store) -> int:
    """Query the champion on every example that has no prediction of a champion yet, and return their number.

    Args:
        workspace: one that keeps images.
        store: its store.
    """
    predicted, gone = sa.select(predictions.c.example), sa.select(pruned.c.example)
    waiting = sa.select(examples.c.sha256).where(
        examples.c.state.in_(_USED), examples.c.sha256.not_in(predicted), examples.c.sha256.not_in(gone)
    )
    with store.reading() as db:
        version = registry.current_champion(db)
        names = list(db.execute(waiting.order_by(examples.c.id)).scalars()) if version is not None else []
    for chunk, labels in query_version(workspace, store, version, names):
        rows = [{"example": name, "version": version, "prediction": k} for name, k in zip(chunk, labels, strict=True)]
        with store.writing() as db:
            db.execute(predictions.insert(), rows)
    return len(names)


def query_version(
    workspace: Workspace, store: Store, version: str | None, names: Sequence[str]
) -> Iterator[tuple[Sequence[str], list[int]]]:
    """Yield examples and a model version's predictions, some hundreds at a time.

    Args:
        workspace: one that keeps images.
        store: its store.
        version: such as ``m-0002``; None if there is nothing to query.
        names: SHA-256 of the examples.

    Yields:
        A part of the names, and the class of each.
    """
    if version is None or not names:
        return
    with store.reading() as db:
        run = registry.model(db, version)["run"]
    model, shape = models.load(str(workspace.run(run).path)), workspace.input_shape()
    for first in range(0, len(names), _CHUNK):
        chunk = names[first : first + _CHUNK]
        yield chunk, logits_of(model, load_pixels(store, chunk, shape)).argmax(1).tolist()

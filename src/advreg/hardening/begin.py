"""Making a home: the trusted base is copied in, registered and made the champion."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from advreg import data, models
from advreg.hardening import registry
from advreg.hardening.attack_families import families
from advreg.hardening.config import HardeningConfig
from advreg.hardening.datasets import hardening_data_of
from advreg.hardening.texts.challenge import create_text_workspace
from advreg.hardening.workspace import BASE, NEIGHBOURS, Workspace
from advreg.runs import RunFolder

_NEIGHBOURS = 3000


def create_workspace(path: str | Path, base: str | Path, settings: HardeningConfig) -> Workspace:
    """Make a home for hardening a deployed model.

    Args:
        path: a new folder.
        base: run folder of the deployed model, which is trusted: every challenger is trained from it.
        settings: what the loop works with.

    Raises:
        RunError: something is at the path already.
        ModelError, DataError, ConfigError: base, data or attacks cannot be used; nothing has been written then.
    """
    if settings.keeps == "texts":
        return create_text_workspace(path, base, settings)
    families(settings.attacks)
    train, _ = data.load(settings.data.name)
    model = models.load(str(base))
    models.check_model(model, train.tensors(n=8)[0], len(train.classes))
    spec = RunFolder.open(base).read_json("model.json")
    facts = {
        "shape": list(train.images.shape[1:]),
        "classes": list(train.classes),
        "sha256": models.state_sha256(model),
    }
    hardening_data_of(settings)
    home = Workspace.create(path, settings)
    run = RunFolder.at(home.folder / BASE)
    run.save_model(model)
    run.write_json("model.json", {**spec, **facts})
    _write_neighbours(home, train)
    store = home.store()
    registry.register_initial_champion(store, BASE, str(facts["sha256"]), "admin")
    store.engine.dispose()
    return home


def _write_neighbours(home: Workspace, train: data.Dataset) -> None:
    """Keep trusted examples for the review page, which has no torch."""
    count = min(_NEIGHBOURS, len(train))
    images, labels = train.images[:count].cpu().numpy(), train.labels[:count].cpu().numpy()
    np.savez_compressed(home.folder / NEIGHBOURS, images=images, labels=labels)

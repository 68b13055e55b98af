"""Handing in: the deployed model that a loop begins with, and each challenger that was trained on a snapshot."""

from __future__ import annotations

import shutil
from pathlib import Path

import sqlalchemy as sa

from advreg.errors import HardeningError, RunError
from advreg.hardening import registry
from advreg.hardening.backends.text import TextBackend
from advreg.hardening.config import HardeningConfig
from advreg.hardening.gate.language import identity, latest, measured_language
from advreg.hardening.lease import leased
from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import models
from advreg.hardening.workspace import BASE, Workspace
from advreg.runs import RunFolder

_LEFT = ("checkpoint.pt", "*.tmp", "incidents.json", "decision.json")
"""What is not copied: what only a resumed training needs, and what is made afresh here."""


def create_text_workspace(path: str | Path, base: str | Path, settings: HardeningConfig) -> Workspace:
    """Make a home for hardening a deployed language model.

    Args:
        path: a new folder.
        base: run folder with the deployed model's evaluation by `advreg language evaluate`.
        settings: what the loop works with; ``data.name`` is a .jsonl file of trusted prompts.

    Raises:
        RunError: something is at the path already, or the base was not evaluated.
        ConfigError: the trusted prompts cannot be read.
    """
    measured_language(base, latest(base))
    settings = settings.replace_with({"data.name": str(Path(settings.data.name).resolve())})
    home = Workspace.create(path, settings)
    try:
        _ = TextBackend(home).clean
    except Exception:
        shutil.rmtree(home.folder.path)
        raise
    weights = _take(base, home, BASE)
    store = home.store()
    registry.register_initial_champion(store, BASE, weights, "admin")
    store.engine.dispose()
    return home


def hand_in(home: Workspace, run: str | Path, store: Store | None = None, snapshot: str | None = None) -> str:
    """Hand in a challenger and return its version; the next tick compares it with the champion.

    Args:
        home: a home that keeps texts.
        run: the challenger's run folder, evaluated as the champion was; it is copied.
        store: the home's store, if it is open already.
        snapshot: what it was trained on; the newest one if None. Who hands it in answers for that.

    Raises:
        HardeningError: a home of images, no such snapshot, or the same weights again.
        RunError: it was not evaluated.
        Busy: another one is being handed in.
    """
    if home.settings.keeps != "texts":
        raise HardeningError("this home keeps images, whose challengers are trained by advreg harden step")
    measured_language(run, latest(run))
    store = store or home.store()
    with leased(store, "challenge"):
        return _handed_in(home, RunFolder.open(run), store, snapshot)


def _handed_in(home: Workspace, run: RunFolder, store: Store, snapshot: str | None) -> str:
    with store.reading() as db:
        named = registry.snapshot(db, snapshot) if snapshot else registry.newest_snapshot(db)
        weights = identity(run)
        there = db.execute(sa.select(models.c.version).where(models.c.weights == weights)).scalar()
        number = (db.execute(sa.select(sa.func.count()).select_from(models)).scalar() or 0) + 1
    if named is None:
        raise HardeningError(
            "there is no snapshot yet that it could have been trained on; run advreg harden step first"
        )
    if there is not None:
        raise HardeningError(f"these weights are {there} already; train another challenger")
    place = f"models/{named['id']}-{number}"
    _take(run.path, home, place)
    return registry.register(store, place, weights, snapshot=named["id"], actor="admin")


def _take(run: str | Path, home: Workspace, place: str) -> str:
    """Copy a run into the home and return the SHA-256 of its weights."""
    source, target = RunFolder.open(run), home.folder / place
    shutil.rmtree(target, ignore_errors=True)  # what an interrupted copy left
    try:
        shutil.copytree(source.path, target, ignore=shutil.ignore_patterns(*_LEFT))
    except (OSError, shutil.Error) as error:
        raise RunError(f"cannot copy {source.path} into {home.folder.path}: {error}") from error
    taken = RunFolder.at(target)
    said = taken.read_json("model.json") if (target / "model.json").is_file() else {}
    name = said.get("name") or source.read_json(f"evaluation/{latest(source.path)}/results.json").get("model")
    if not (target / "model.json").is_file():
        taken.write_json("model.json", {"schema": "advreg/model@1", "name": name})
    weights = identity(taken)
    taken.write_json("model.json", {**taken.read_json("model.json"), "sha256": weights})
    return weights

"""Starting a run folder, and finding in one what to go on with."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from advreg import runtime
from advreg.config import Config
from advreg.errors import RunError
from advreg.runs import RunFolder
from advreg.runs.resume_check import check_same_config
from advreg.trainer.run_folder import read_run_config
from advreg.training.checkpoint import LAST
from advreg.training.setup import TrainState

CONFIG, MODEL, ENVIRONMENT = "run.toml", "model.json", "environment.json"


def read_config(config: Config | str | Path, *, resume: bool) -> Config:
    """Return the configuration to train with, validated; a run folder stands for the ``run.toml`` in it.

    Raises:
        ConfigError: it cannot be used.
        RunError: a run folder was given, but not to resume it.
    """
    return read_run_config(config, Config, CONFIG, resume=resume)


def going_on(config: Config, *, resume: bool) -> Config:
    """Return the configuration to prepare with: a run that goes on has weights of its own, and needs no others any more."""
    own = Path(config.train.out).expanduser() / LAST
    if not (resume and config.model.weights and own.exists()):
        return config
    return replace(config, model=replace(config.model, weights=str(own)))


def start_folder(config: Config, session: TrainState, *, resume: bool) -> RunFolder:
    """Return the run folder: a new one with what will not change any more, or the one to resume.

    Raises:
        RunError: a new one exists already or cannot be written; one to resume is absent, never began, holds another run, or
            was begun with other data.
    """
    if resume:
        return _begun(config, session)
    run = RunFolder.create(config.train.out, leftovers=(ENVIRONMENT, MODEL))
    run.write_json(ENVIRONMENT, {**runtime.environment(), "data": _fingerprint(session)})
    run.write_json(MODEL, _model_spec(session))
    run.write(CONFIG, config.to_toml())
    return run


def _begun(config: Config, session: TrainState) -> RunFolder:
    run = RunFolder.open(config.train.out)
    if not (run / CONFIG).exists():
        raise RunError(f"{run.path} holds no {CONFIG}: it was stopped before it began; train without resuming")
    check_same_config(run, Config.load(run / CONFIG).to_dict(), config.to_dict())
    before = run.read_json(ENVIRONMENT).get("data")
    if before not in (None, _fingerprint(session)):  # None: begun when this was not written down yet
        raise RunError(
            f"{run.path} was started with other data: {config.data.name} has changed since; "
            "make it what it was, or train in another folder"
        )
    return run


def _fingerprint(session: TrainState) -> str:
    """Return the SHA-256 of what is trained on and what is held out: which is which, too, depends on all images."""
    parts = (session.batches.dataset, session.validation_set)
    return hashlib.sha256("".join(part.fingerprint() for part in parts if part is not None).encode()).hexdigest()


def noted_changes(run: RunFolder) -> dict[str, Any]:
    """Return what is another now than when the run began: after such a change bytes may differ."""
    before, now = run.read_json(ENVIRONMENT), runtime.environment()
    return {key: value for key, value in now.items() if before.get(key) != value}


def _model_spec(session: TrainState) -> dict[str, Any]:
    """Return what builds the network again, without its weights."""
    spec: dict[str, Any] = vars(session.model)["advreg_spec"]
    return {
        "schema": "advreg/model@1",
        **spec,
        "classes": list(session.batches.dataset.classes),
        "shape": list(session.guard.x.shape[1:]),
    }

"""The run folder of image training: creation, and checks before a run is resumed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from advreg import runtime
from advreg.config import Config
from advreg.errors import RunError
from advreg.runs import RunFolder
from advreg.trainer.run_folder import ENVIRONMENT, create_run_folder, open_to_resume, read_run_config
from advreg.training.checkpoint import LAST
from advreg.training.setup import TrainState

CONFIG, MODEL = "run.toml", "model.json"


def read_config(config: Config | str | Path, *, resume: bool) -> Config:
    """Return the configuration to train with, validated; of a run folder, the ``run.toml`` in it.

    Args:
        config: a configuration, a TOML file, or a run folder to resume.
        resume: whether a run folder may be given.

    Raises:
        ConfigError: the configuration is not valid.
        RunError: a run folder was given without ``resume``.
    """
    return read_run_config(config, Config, CONFIG, resume=resume)


def use_own_weights(config: Config, *, resume: bool) -> Config:
    """Return the configuration to prepare with: a resumed run starts from its own weights, not from ``model.weights``.

    Args:
        config: configuration of the run.
        resume: whether the run exists.
    """
    own = Path(config.train.out).expanduser() / LAST
    if not (resume and config.model.weights and own.exists()):
        return config
    return replace(config, model=replace(config.model, weights=str(own)))


def start_folder(config: Config, session: TrainState, *, resume: bool) -> RunFolder:
    """Return the run folder: a new one with configuration, environment and model, or the one to resume.

    Args:
        config: configuration of the run.
        session: the run.
        resume: whether the run exists.

    Raises:
        RunError: a new one exists already or cannot be written; one to resume is absent, never started, holds another run, or
            was started with other data.
    """
    if resume:
        return _open_to_resume(config, session)
    environment = {**runtime.environment(), "data": _fingerprint(session)}
    return create_run_folder(config, CONFIG, {ENVIRONMENT: environment, MODEL: _model_spec(session)})


def _open_to_resume(config: Config, session: TrainState) -> RunFolder:
    run = open_to_resume(config, CONFIG)
    before = run.read_json(ENVIRONMENT).get("data")
    if before not in (None, _fingerprint(session)):  # None: written by a version without fingerprints
        raise RunError(
            f"{run.path} was started with other data: {config.data.name} has changed since; "
            "restore the data, or train in another folder"
        )
    return run


def _fingerprint(session: TrainState) -> str:
    """Return the SHA-256 of training set and validation set; the split depends on all images too."""
    parts = (session.batches.dataset, session.validation_set)
    return hashlib.sha256("".join(part.fingerprint() for part in parts if part is not None).encode()).hexdigest()


def changed_environment(run: RunFolder) -> dict[str, Any]:
    """Return the parts of the environment that changed since the run started: bytes may then differ.

    Args:
        run: the run folder.
    """
    before, now = run.read_json(ENVIRONMENT), runtime.environment()
    return {key: value for key, value in now.items() if before.get(key) != value}


def _model_spec(session: TrainState) -> dict[str, Any]:
    """Return the name and options that rebuild the network, without weights."""
    spec: dict[str, Any] = vars(session.model)["advreg_spec"]
    return {
        "schema": "advreg/model@1",
        **spec,
        "classes": list(session.batches.dataset.classes),
        "shape": list(session.guard.x.shape[1:]),
    }

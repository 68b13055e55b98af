"""Starting a run folder, and finding in one what to go on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from advreg import runtime
from advreg.config import Config
from advreg.errors import RunError
from advreg.runs import RunFolder
from advreg.runs.same import same_run
from advreg.training.session import Session

CONFIG, MODEL, ENVIRONMENT = "run.toml", "model.json", "environment.json"


def read_config(config: Config | str | Path, *, resume: bool) -> Config:
    """Return the configuration to train with, validated; a run folder stands for the ``run.toml`` in it.

    Raises:
        ConfigError: it cannot be used.
        RunError: a run folder was given, but not to resume it.
    """
    if isinstance(config, Config):
        return config.checked()
    path = Path(config)
    if not path.is_dir():
        return Config.load(path)
    if not resume:
        raise RunError(f"{path} is a folder; give a TOML file, or resume the run in it")
    found = Config.load(path / CONFIG)
    return replace(found, train=replace(found.train, out=str(path)))


def start_folder(config: Config, session: Session, *, resume: bool) -> RunFolder:
    """Return the run folder: a new one with what will not change any more, or the one to resume.

    Raises:
        RunError: a new one exists already or cannot be written; one to resume is absent or holds another run.
    """
    if resume:
        run = RunFolder.open(config.train.out)
        return same_run(run, Config.load(run / CONFIG).to_dict(), config.to_dict())
    run = RunFolder.create(config.train.out)
    run.write_json(ENVIRONMENT, runtime.environment())
    run.write_json(MODEL, _model_spec(session))
    run.write(CONFIG, config.to_toml())
    return run


def noted_changes(run: RunFolder) -> dict[str, Any]:
    """Return what is another now than when the run began: after such a change bytes may differ."""
    before, now = run.read_json(ENVIRONMENT), runtime.environment()
    return {key: value for key, value in now.items() if before.get(key) != value}


def _model_spec(session: Session) -> dict[str, Any]:
    """Return what builds the network again, without its weights."""
    spec: dict[str, Any] = vars(session.model)["advreg_spec"]
    return {
        "schema": "advreg/model@1",
        **spec,
        "classes": list(session.batches.dataset.classes),
        "shape": list(session.guard.x.shape[1:]),
    }

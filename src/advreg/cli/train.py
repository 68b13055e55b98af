"""The verb train: a configuration, what shall be otherwise, and who watches."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from advreg.cli import progress
from advreg.cli.resolution import load_config
from advreg.config import Config
from advreg.errors import ConfigError
from advreg.training import fit, loggers
from advreg.training.finetune import fine_tune


@dataclass(frozen=True)
class TrainOptions:
    """What was asked for on the command line."""

    config: Path
    out: Path | None
    changes: list[str]
    resume: bool
    finetune: str | None
    ratio: float
    logs: list[str]
    as_json: bool


def run_train(wish: TrainOptions) -> None:
    """Train, and say where the result is; of several processes the first one says it."""
    config = _config(wish)
    watchers = [loggers.LOGGERS.build(name) for name in wish.logs]
    with progress.training(quiet=wish.as_json) as watch:
        run = fit(config, resume=wish.resume, on_event=loggers.combine_loggers(watch, *watchers))
    if os.environ.get("RANK", "0") != "0":
        return
    if wish.as_json:
        typer.echo(json.dumps({"run": str(run.path), "last": run.read_log("metrics.jsonl")[-1]}))
    else:
        typer.echo(f"run folder: {run.path}\nnext: advreg evaluate {run.path}")


def _config(wish: TrainOptions) -> Config:
    is_run = wish.config.is_dir()
    config = load_config(wish.config).replace_with(wish.changes)
    if wish.finetune is not None:  # which shall meet what was asked for, and not have the last word
        config = fine_tune(config, wish.finetune, ratio=wish.ratio).replace_with(wish.changes)
    elif wish.ratio != 1:
        raise ConfigError(f"--ratio is {wish.ratio}, which belongs to fine-tuning; add --finetune RUN, or leave it out")
    folder = wish.out or (wish.config if is_run else None)
    return config if folder is None else replace(config, train=replace(config.train, out=str(folder)))

"""The verb ``train``: train as a configuration and the options determine, into a run folder."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import typer

from advreg.cli import progress
from advreg.cli.resolution import load_config
from advreg.cli.training_verbs import TrainOptions as TrainOptions
from advreg.config import Config
from advreg.errors import ConfigError
from advreg.report import figures
from advreg.runs import RunFolder
from advreg.trainer import loggers
from advreg.training import fit
from advreg.training.finetune import fine_tune
from advreg.training.learning import failure_to_learn


def run_train(options: TrainOptions) -> None:
    """Train and print the run folder; under ``torchrun``, only rank 0 prints.

    Args:
        options: options of ``advreg train``.

    Raises:
        typer.Exit: status 1, where the run ended without having learned anything.
    """
    config = _config(options)
    watchers = [loggers.LOGGERS.build(name, None, figures.artefacts) for name in options.logs or []]
    with progress.training(quiet=options.as_json) as watch:
        run = fit(config, resume=options.resume, on_event=loggers.combine_loggers(watch, *watchers))
    failure = failure_to_learn(run)
    if os.environ.get("RANK", "0") == "0":
        _show(run, failure, as_json=options.as_json)
    if failure is not None:
        raise typer.Exit(1)


def _show(run: RunFolder, failure: str | None, *, as_json: bool) -> None:
    if as_json:
        result = {"run": str(run.path), "last": run.read_log("metrics.jsonl")[-1]}
        typer.echo(json.dumps(result if failure is None else {**result, "failed": failure}))
        return
    typer.echo(f"run folder: {run.path}\nnext: advreg evaluate {run.path}")
    if failure is not None:
        typer.echo(f"failed: nothing was learned: {failure}", err=True)


def _config(options: TrainOptions) -> Config:
    """Return the configuration with every option applied; ``--set`` overrides what fine-tuning chooses."""
    config = load_config(options.config).replace_with(options.changes or [])
    if options.finetune is not None:
        config = fine_tune(config, options.finetune, ratio=options.ratio).replace_with(options.changes or [])
    elif options.ratio is not None:
        raise ConfigError(
            f"--ratio is {options.ratio}, which belongs to fine-tuning; add --finetune RUN, or leave it out"
        )
    folder = options.out or (options.config if options.config.is_dir() else None)
    return config if folder is None else replace(config, train=replace(config.train, out=str(folder)))

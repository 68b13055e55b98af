"""What the training verbs of texts and language models share: the configuration of file and options, and the printed run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import typer

from advreg.config.base import BaseConfig
from advreg.runs import RunFolder
from advreg.trainer.checkpoint import METRICS

C = TypeVar("C", bound=BaseConfig)


def config_with_options(
    defaults: C, config: Path | None, file: str, options: Mapping[str, object | None], changes: Sequence[str]
) -> C:
    """Return a configuration with the options of the command line applied.

    Args:
        defaults: the configuration where none is given.
        config: a configuration file, or a run folder, which the result goes to.
        file: name of the configuration in a run folder.
        options: value of each configuration key that has an option of its own; None where it is absent.
        changes: further ``key=value``, which win.

    Returns:
        The configuration.

    Raises:
        ConfigError: the file cannot be used, or a key or value is not allowed.
    """
    is_run = config is not None and config.is_dir()
    base = defaults if config is None else defaults.load(config / file if is_run else config)
    folder = [f"train.out={config}"] if is_run else []
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    return base.replace_with([*folder, *given, *changes])


def print_run(run: RunFolder, hint: str, *, as_json: bool) -> None:
    """Print the folder of a finished training, and the command that comes next; under ``torchrun``, only rank 0 prints.

    Args:
        run: the run folder.
        hint: the next command.
        as_json: print one JSON object instead of text.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        typer.echo(json.dumps({"run": str(run.path), "last": run.read_log(METRICS)[-1]}))
    else:
        typer.echo(f"run folder: {run.path}\nnext: {hint}")

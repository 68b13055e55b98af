"""One training of a sweep: train, or resume, then attack the held-out training images at the eps of the sweep."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from advreg import models
from advreg.config import Config
from advreg.config.task import configured_task
from advreg.errors import ConfigError, TrainingError
from advreg.evaluation import Evaluation, evaluate
from advreg.runs import RunFolder
from advreg.sweep.early_stop import EarlyStop, HopelessTrial, accuracies
from advreg.sweep.space import Setting
from advreg.sweep.summary import COMPLETE, FAILED, STOPPED
from advreg.threat import ThreatModel
from advreg.trainer.checkpoint import METRICS
from advreg.trainer.events import Event
from advreg.training import fit
from advreg.training.folder import CONFIG
from advreg.training.setup import split_data

Row = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """How every training of a sweep is measured.

    Attributes:
        threat: threat model of the comparison, the same for all, whatever eps they train with.
        protocol: name of the protocol.
        n: held-out images, from the first; None for all.
    """

    threat: ThreatModel
    protocol: str
    n: int | None


@dataclass(frozen=True)
class Trial:
    """A training to run.

    Attributes:
        name: name of the setting.
        setting: key -> value as text; empty for the plain network.
        config: the configuration; its ``train.out`` is the run folder.
    """

    name: str
    setting: Setting
    config: Config


def run_trial(trial: Trial, how: Measurement, stop: EarlyStop | None, on_event: Callable[[Event], None]) -> Row:
    """Train and measure; both resume what an interrupted call left.

    Args:
        trial: the training.
        how: the measurement.
        stop: stops a hopeless training; None for never.
        on_event: called with each event of the training.

    Returns:
        The row: state, accuracies on the held-out images, the curve over epochs, the passes of the training
        and the processor seconds of both.
    """
    began = time.process_time()
    row: Row = {"name": trial.name, "setting": trial.setting, "seed": trial.config.seed, "run": trial.config.train.out}
    path = Path(trial.config.train.out)

    def watch(event: Event) -> None:
        on_event(event)
        if stop is not None:
            stop(event)

    try:
        run = fit(trial.config, resume=(path / CONFIG).is_file(), on_event=watch)
        found = _measure(trial.config, run, how)
    except (HopelessTrial, TrainingError) as end:
        state = STOPPED if isinstance(end, HopelessTrial) else FAILED
        return {**row, "state": state, "why": str(end), **_empty(), **_training_cost(path, began)}
    figures = {"clean_accuracy": found.clean_accuracy, "robust_accuracy": found.robust_accuracy, "n": found.n}
    return {
        **row, "state": COMPLETE, "why": "", **figures, "protocol": found.protocol, **_training_cost(path, began)
    }  # fmt: skip


def held_out_images(config: Config) -> Any:
    """Return the training images that a run holds out.

    Args:
        config: configuration of the run.

    Raises:
        ConfigError: the run holds out none.
    """
    held = split_data(config)[1]
    if held is None:
        raise ConfigError("data.validation is 0, so no training images are held out; set it, such as to 1000")
    return held


def _measure(config: Config, run: RunFolder, how: Measurement) -> Evaluation:
    model = models.load(str(run.path))
    task, folder = configured_task(config), run.path / "held-out"
    return evaluate(model, held_out_images(config), how.threat, protocol=how.protocol, n=how.n, out=folder, task=task)


def _empty() -> Mapping[str, None]:
    return dict.fromkeys(("clean_accuracy", "robust_accuracy", "n", "protocol"))


def _training_cost(path: Path, began: float) -> Row:
    """Return the accuracies after each epoch, the passes of the training, and the seconds since ``began``."""
    lines = [line for line in RunFolder.at(path).read_log(METRICS) if "forwards" in line]
    spent = {name: sum(line[name] for line in lines) for name in ("forwards", "backwards")}
    curve = [list(accuracies(line)) for line in lines]
    return {"curve": curve, **spent, "processor_seconds": round(time.process_time() - began, 1)}


def plain_config(config: Config) -> Config:
    """Return the configuration without an attack: the reference of the trade-off.

    Args:
        config: configuration of adversarial training.

    Example:
        >>> robust = Config().replace_with(["attack.name=pgd", "recipe.name=trades", "threat.eps=0.1", "train.awp=0.005"])
        >>> plain_config(robust).recipe.name
        'standard'
    """
    changes: dict[str, Any] = {
        "recipe.name": "standard",
        "recipe.options": {},
        "attack.name": "none",
        "attack.objective": "auto",
        "attack.start": "uniform",
        "policy.name": "fixed",
        "policy.options": {},
        "train.awp": 0.0,
    }
    return config.replace_with(changes)


def with_run_folder(config: Config, folder: Path, name: str) -> Config:
    """Return the configuration with the run folder of a trial.

    Args:
        config: configuration of the trial.
        folder: folder of the sweep.
        name: name of the setting.
    """
    return replace(config, train=replace(config.train, out=str(folder / "runs" / f"{name}-seed{config.seed}")))


def rows_of_setting(rows: Sequence[Row], setting: Setting) -> dict[int, Row]:
    """Return seed -> row of a setting.

    Args:
        rows: all rows.
        setting: key -> value as text.
    """
    return {row["seed"]: row for row in rows if row["setting"] == setting}

"""One step of training before a configuration is written, so that what `advreg init` writes trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from advreg import models
from advreg.cli.detected_data import KNOWN, DetectedData
from advreg.config import Config
from advreg.training.dry_run import dry_run
from advreg.training.setup import prepare


def try_one_step(config: Config, found: DetectedData) -> None:
    """Take one step of training on a few examples; nothing is written.

    Data that would have to be downloaded are replaced by zeros, and only the network is tried.

    Args:
        config: the configuration.
        found: facts about the data.

    Raises:
        AdvregError: model, data, attack and recipe do not fit each other.
    """
    if found.name in KNOWN:
        model = models.load_with(config.model.name, config.model.weights or None, config.model.options)
        models.check_model(model, torch.zeros(2, *found.shape), found.classes)
        return
    dry_run(prepare(_short(config, found)))


def _short(config: Config, found: DetectedData) -> Config:
    """Return the configuration with a single attack step, open features mutable, and images read as far as needed."""
    streams = found.name.startswith("folder:") and "size=" in found.name
    mode = "" if "mode=" in found.name else f"&mode={'grey' if found.shape[0] == 1 else 'rgb'}"
    data = replace(config.data, name=f"{found.name}{mode}", stream=True) if streams else config.data
    train = replace(config.train, device="cpu", out=str(Path(config.train.out)))
    decided = {name: {**keys, "mutable": keys["mutable"] is not False} for name, keys in config.features.items()}
    return replace(config, data=data, train=train, attack=replace(config.attack, steps=1), features=decided)

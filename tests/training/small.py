"""A data set and a network so small that a whole training run takes a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from advreg import recipes
from advreg.config import Config


def write_data(path: Path, n: int = 120) -> Path:
    """Write dark, grey and bright images with noise: learnable in a few steps."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    x = np.clip(rng.normal(30 + 90 * y[:, None, None, None], 30, (n, 1, 8, 8)), 0, 255).astype(np.uint8)
    np.savez(path, x=x, y=y, x_test=x[:20], y_test=y[:20])
    return path


def network(classes: int = 3) -> nn.Module:
    """Return a network with everything that has state or draws numbers: BatchNorm and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(4 * 8 * 8, classes),
    )


def split() -> nn.Module:
    """Return a network whose head normalises one value an example, which takes two examples at least."""
    return recipes.split_batchnorm(network(), predictors=["1"])


def smooth() -> nn.Module:
    """Return a network whose answer to an example depends on no other and on no draw: what processes can share exactly."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 8 * 8, 3))


def constant() -> nn.Module:
    """Return a network whose gradients are all zero: it answers the same for every input, before and after training."""
    return nn.Sequential(network(), Muted())


class Muted(nn.Module):
    """Multiplies by zero."""

    def forward(self, z: Tensor) -> Tensor:
        return 0.0 * z


def diverging() -> nn.Module:
    """Return a network that learns for a while, then has nothing but NaN to say."""
    return nn.Sequential(network(), Fuse())


class Fuse(nn.Module):
    """Burns out after some forwards in train mode; how many it has seen travels with the weights."""

    seen: Tensor

    def __init__(self, forwards: int = 7) -> None:
        super().__init__()
        self.forwards = forwards
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        self.seen += self.training
        return z * float("nan") if self.seen > self.forwards else z


def config(data: Path, out: Path, *changes: str) -> Config:
    """Return a run of three epochs of five steps with everything on: adversary, schedule, momentum, crops."""
    return Config().replace_with(
        [
            "model.name=tests.training.small:network",
            f"data.name=npz:{data}",
            "data.validation=20",
            "data.augment=crop-flip",
            "threat.eps=0.05",
            "attack.name=pgd",
            "attack.steps=2",
            "recipe.name=madry",
            "optimizer.lr=0.05",
            "schedule.name=cosine",
            "schedule.options.warmup=0.1",
            "train.epochs=3",
            "train.batch_size=20",
            "train.validation_steps=3",
            "train.device=cpu",
            f"train.out={out}",
            *changes,
        ]
    )

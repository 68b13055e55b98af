"""The data of a hardening loop as tensors: trusted training images, the sealed set, canaries, stored examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from advreg import data
from advreg.data import Dataset
from advreg.errors import ConfigError
from advreg.hardening.config import HardeningConfig
from advreg.hardening.image_decoding import Limits, decode
from advreg.hardening.retrain import Accepted
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row

_CANARY_POOL = 2000
_ANY = Limits(bytes=1 << 30, pixels=1 << 30)  # the service has bounded stored examples already


@dataclass(frozen=True, eq=False)
class HardeningData:
    """Three disjoint data sets.

    Attributes:
        clean: trusted training images.
        sealed: test images that only the gate uses.
        pool: test images that canaries are chosen from.
    """

    clean: Dataset
    sealed: Dataset
    pool: Dataset


def load_hardening_data(settings: HardeningConfig) -> HardeningData:
    """Return the data of a loop; sealed examples and canaries come from the test part, which is never trained on.

    Args:
        settings: its section ``data``.

    Raises:
        ConfigError: the data set has fewer examples than configured.
    """
    section = settings.data
    train, test = data.load_images(section.name)
    last = section.sealed_from + section.sealed
    if last > len(test) or section.clean > len(train):
        have = f"{section.name} has {len(train)} training and {len(test)} test examples"
        raise ConfigError(f"data.clean is {section.clean}, the sealed set ends at {last}; {have}")
    rest = [k for k in range(len(test)) if not section.sealed_from <= k < last][:_CANARY_POOL]
    if not rest:
        raise ConfigError(
            f"data.sealed is {section.sealed}: all of {section.name}'s test part; leave some for canaries"
        )
    clean = train.select(range(section.clean)) if section.clean else train
    return HardeningData(clean, test.select(range(section.sealed_from, last)), test.select(rest))


def load_pixels(store: Store, names: Sequence[str], shape: tuple[int, int, int]) -> Tensor:
    """Return stored examples as pixels float32 in [0, 1] ``(N, C, H, W)``.

    Args:
        store: the store.
        names: SHA-256 of the examples.
        shape: ``(C, H, W)`` of the model's inputs.
    """
    if not names:
        return torch.zeros(0, *shape)
    limits = Limits(_ANY.bytes, _ANY.pixels, shape)
    return torch.from_numpy(np.stack([decode(store.blobs.get(name), limits)[1] for name in names]))


def load_accepted(store: Store, members: Sequence[Row], shape: tuple[int, int, int]) -> Accepted:
    """Return the examples of a snapshot, with labels and shares as the manifest states them.

    Args:
        store: the store with the images.
        members: entries of the manifest.
        shape: ``(C, H, W)`` of the model's inputs.
    """
    x = load_pixels(store, [member["id"] for member in members], shape)
    labels = torch.tensor([member["label"] for member in members], dtype=torch.int64)
    shares = [member.get("loss_share", 0.0) for member in members]  # older manifests state none, and are not trained on
    return Accepted(x, labels, torch.tensor(shares, dtype=torch.float64))

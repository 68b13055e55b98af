"""Batches from a tensor that already lies on the device: an index and a cast, no workers, no copies."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from advreg.data.augment import Augment
from advreg.data.dataset import Dataset, Device, to_float
from advreg.errors import DataError

_SHARE = 0.5  # of the free memory of a device that data may take; the rest is for the training


@dataclass(frozen=True)
class Batch:
    """Some examples.

    Args:
        x: pixels float32 in [0, 1] ``(B, C, H, W)``.
        y: labels int64 ``(B,)``.
        ids: rows in the data set ``(B,)``, which random draws belong to.
    """

    x: Tensor
    y: Tensor
    ids: Tensor


class Batches:
    """The batches of every epoch, a pure function of (seed, epoch), so that a run can be resumed.

    Args:
        dataset: where the examples come from; it moves to the device when it fits there.
        batch_size: examples in a batch; the last one of an epoch may be smaller.
        seed: the run's seed.
        shuffle: whether each epoch has an order of its own.
        augment: see `advreg.data.augmentation`.
        device: where batches are wanted; by default where the data set is.

    Raises:
        DataError: a batch size under 1.

    Example:
        >>> data = Dataset.from_tensors(torch.rand(5, 1, 2, 2), torch.arange(5))
        >>> batches = Batches(data, 2, seed=0)
        >>> len(batches), sorted(i for batch in batches.epoch(0) for i in batch.ids.tolist())
        (3, [0, 1, 2, 3, 4])
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        augment: Augment | None = None,
        device: Device | None = None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size must be 1 or more, given {batch_size}")
        self.device = torch.device(device) if device is not None else dataset.images.device
        self.dataset = dataset.to(self.device) if _fits(dataset, self.device) else dataset
        self.batch_size, self.seed, self.shuffle, self.augment = batch_size, seed, shuffle, augment

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; every example comes once."""
        for rows in torch.split(self._order(number), self.batch_size):
            yield self._batch(rows, number)

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.dataset))
        # drawn on the CPU, so that every kind of device sees the same order
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
        return torch.randperm(len(self.dataset), generator=generator)

    def _batch(self, rows: Tensor, epoch: int) -> Batch:
        here = rows.to(self.dataset.images.device)
        images, labels = self.dataset.images[here].to(self.device), self.dataset.labels[here].to(self.device)
        ids = rows.to(self.device)
        if self.augment is not None:
            images = self.augment(images, ids, self.seed, epoch)
        return Batch(to_float(images), labels, ids)


def _mix(seed: int, epoch: int) -> int:
    digest = hashlib.sha256(f"{seed}:{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _fits(dataset: Dataset, device: torch.device) -> bool:
    if device.type != "cuda" or dataset.images.device == device:
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return dataset.images.nbytes < _SHARE * free

"""Batches: indexed from a tensor on the device, or read ahead from a disk by worker processes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advreg.data.augment import Augment
from advreg.data.dataset import Dataset, Device, to_float
from advreg.data.streaming import Crop, Reader, StreamingDataset, nothing_readable, read_batches
from advreg.data.table import Table
from advreg.errors import DataError

_SHARE = 0.5  # share of a device's free memory that data may take


@dataclass(frozen=True)
class DataBatch:
    """A batch of examples.

    Args:
        x: float32 ``(B, ...)``; images are ``(B, C, H, W)`` in [0, 1].
        y: labels int64 ``(B,)``.
        ids: rows in the data set ``(B,)``, which seed the random draws of each example.
        weight: weight of its mean loss, so that the mean over processes is the mean over the whole batch.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    weight: float = 1.0

    def split(self, parts: int) -> list[DataBatch]:
        """Return the batch in up to ``parts`` parts, whose weights add up to that of the whole."""
        rows = torch.arange(len(self.y), device=self.y.device).chunk(parts)
        return [DataBatch(self.x[k], self.y[k], self.ids[k], self.weight * len(k) / len(self.y)) for k in rows]


class Batches:
    """The batches of every epoch, a pure function of (seed, epoch), so that a run can be resumed.

    Args:
        dataset: the examples; moved to the device if they fit there.
        batch_size: examples in a batch; the last one of an epoch may be smaller.
        seed: the run's seed.
        shuffle: whether to draw a new order in each epoch.
        augment: see `advreg.data.augmentation`.
        device: device of the batches; by default that of the data set.
        part: rank of the process and number of processes: the part of every batch that it gets.
        workers: processes that read streamed images ahead.
        crop: crop of a streamed image: ``"center"``, or ``"random"``, another window in each epoch.
        drop_last: whether an epoch leaves out its last batch if it is smaller, so that all have one size; with ``shuffle``
            the examples left out differ between epochs.
        balanced: whether an epoch draws its examples with replacement, each class equally often: what class weights in the
            loss do in expectation, in every recipe.

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
        dataset: Dataset | Table | StreamingDataset,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        augment: Augment | None = None,
        device: Device | None = None,
        part: tuple[int, int] = (0, 1),
        workers: int = 0,
        crop: str = "center",
        drop_last: bool = False,
        balanced: bool = False,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size must be 1 or more, given {batch_size}")
        here = "cpu" if isinstance(dataset, StreamingDataset) else dataset.inputs.device
        self.device = torch.device(here if device is None else device)
        self.dataset = _to_device(dataset, self.device)
        self.batch_size, self.seed = batch_size, seed
        self.shuffle, self.augment = shuffle, augment
        self.part, self.workers = part, workers
        self.crop = crop
        self.chances = _chances(self.dataset.labels) if balanced else None
        self.drop_last = drop_last and len(self.dataset) >= batch_size

    def __len__(self) -> int:
        whole = len(self.dataset) // self.batch_size
        return whole if self.drop_last else math.ceil(len(self.dataset) / self.batch_size)

    def epoch(self, number: int) -> Iterator[DataBatch]:
        """Yield the batches of an epoch: every example once; a batch without a readable image is left out.

        Args:
            number: the epoch; each has its own order and augmentation.

        Raises:
            DataError: a broken image that is not skipped, or no readable image.
        """
        mine = [own_part(rows, self.part) for rows in self.rows(number)]
        any_batch = False
        for (images, rows), (_, weight) in zip(self._images([rows for rows, _ in mine], number), mine, strict=True):
            if len(rows):
                any_batch = True
                yield self._batch(images, rows, weight, number)
            elif self.part[1] > 1:  # other processes wait for this step, so yield an example of weight 0
                yield replace(self.first(1), weight=0.0)
        if not (any_batch or self.part[1] > 1):
            raise nothing_readable(self.dataset)

    def first(self, n: int) -> DataBatch:
        """Return the first ``n`` readable examples of the data set, fewer if there are fewer.

        Raises:
            DataError: a broken image that is not skipped, or no readable image.
        """
        for rows in torch.split(torch.arange(len(self.dataset)), n):
            images, kept = next(self._images([rows], 0))
            if len(kept):
                return self._batch(images, kept, 1.0, 0)
        raise nothing_readable(self.dataset)

    def rows(self, epoch: int) -> tuple[Tensor, ...]:
        """Return the rows of each whole batch of an epoch, in order."""
        return torch.split(self._order(epoch), self.batch_size)[: len(self)]

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.dataset))
        # drawn on the CPU, so that the order is the same on every device
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
        if self.chances is not None:
            return torch.multinomial(self.chances, len(self.dataset), replacement=True, generator=generator)
        return torch.randperm(len(self.dataset), generator=generator)

    def _images(self, batches: list[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images of each batch of rows, uint8, and their rows: fewer where a broken image is skipped."""
        if isinstance(self.dataset, StreamingDataset):
            crop = Crop(self.seed, epoch) if self.crop == "random" else None
            yield from read_batches(Reader(self.dataset, crop), batches, self.workers)
            return
        for rows in batches:
            yield self.dataset.inputs[rows.to(self.dataset.inputs.device)], rows

    def _batch(self, images: Tensor, rows: Tensor, weight: float, epoch: int) -> DataBatch:
        """Return these examples as a batch: on the device, augmented, in floats."""
        images, ids = images.to(self.device), rows.to(self.device)
        labels = self.dataset.labels[rows.to(self.dataset.labels.device)].to(self.device)
        if self.augment is not None:
            images = self.augment(images, ids, self.seed, epoch)
        x = to_float(images) if images.dtype == torch.uint8 else images
        return DataBatch(x, labels, ids, weight)


def _chances(labels: Tensor) -> Tensor:
    """Return the chance of each example, up to a factor, for which all classes have the same."""
    if labels.is_floating_point() or labels.ndim != 1:
        raise DataError("balanced batches need labels of classes (N,); set data.balanced = false")
    places = labels.cpu() - labels.min().cpu()
    return places.bincount().double().reciprocal()[places]


def own_part(rows: Tensor, part: tuple[int, int]) -> tuple[Tensor, float]:
    """Return one of several near-equal parts of a batch, and the weight of its mean; never an empty part.

    If there are fewer rows than parts, the remaining parts get the first row with weight 0.

    Args:
        rows: rows of the whole batch.
        part: index of the part, and the number of parts.

    Returns:
        The rows of the part, and the weight of its mean.

    Example:
        >>> [own_part(torch.arange(3), (k, 2)) for k in (0, 1)]
        [(tensor([0, 1]), 1.3333333333333333), (tensor([2]), 0.6666666666666666)]
    """
    rank, parts = part
    mine = rows.tensor_split(parts)[rank]
    return (mine, len(mine) * parts / len(rows)) if len(mine) else (rows[:1], 0.0)


def _mix(seed: int, epoch: int) -> int:
    digest = hashlib.sha256(f"{seed}:{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _to_device(dataset: Dataset | Table | StreamingDataset, device: torch.device) -> Dataset | Table | StreamingDataset:
    """Move the data set to the device if it fits there."""
    if isinstance(dataset, StreamingDataset) or dataset.inputs.device == device:
        return dataset
    if device.type == "cuda" and dataset.inputs.nbytes >= _SHARE * torch.cuda.mem_get_info(device)[0]:
        return dataset
    return dataset.to(device)

"""A folder of images that is read batch by batch, so that it need not fit into memory."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader

from advreg import example_rng
from advreg.data.dataset import Dataset, Device, to_float
from advreg.data.images import GREY, Size, open_image, pixels, sides
from advreg.errors import DataError

_STREAM = 0xD080000  # far from the streams of attacks, which count from 0, and of other augmentations
_AREA, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop: share of the image, width over height


@dataclass(frozen=True, eq=False)
class StreamingDataset:
    """Images on a disk with labels: what `Dataset` is for images in memory.

    Args:
        paths: the files.
        labels: int64 ``(N,)``.
        classes: name of each class.
        name: what it is called in results.
        split: ``"train"`` or ``"test"``.
        mode: ``"grey"`` or ``"rgb"``.
        size: side of the square, or height and width, that is cut out.
        skip: whether a broken image is skipped with a warning; otherwise it raises.
        bits: bits that deep grey values use.
    """

    paths: Sequence[Path]
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    split: str
    mode: str
    size: Size
    skip: bool = False
    bits: int = 16

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        height, width = sides(self.size)
        images = f"{len(self)} streamed images of {height}x{width}"
        return f"<{self.name}/{self.split}: {images}, {len(self.classes)} classes>"

    def select(self, indices: Tensor | Sequence[int]) -> StreamingDataset:
        """Return the data set of these rows, in this order."""
        rows = torch.as_tensor(indices)
        return replace(self, paths=[self.paths[row] for row in rows.tolist()], labels=self.labels[rows])

    def tensors(self, n: int | None = None, start: int = 0) -> tuple[Tensor, Tensor]:
        """Read up to ``n`` examples from ``start`` on: pixels float32 in [0, 1] and labels, as `Dataset.tensors` returns."""
        rows = list(range(len(self)))[start : None if n is None else start + n]
        images, labels = self._read(rows)
        return to_float(images), labels

    def to(self, device: Device) -> Dataset:
        """Read everything into memory, and move it to a device."""
        return Dataset(*self._read(list(range(len(self)))), self.classes, self.name, self.split).to(device)

    def fingerprint(self) -> str:
        """Return the SHA-256 of paths and labels, in hexadecimal; a folder that moved as a whole has the same.

        What is in the files is not read.
        """
        base = os.path.commonpath([path.parent for path in self.paths])
        named = zip(self.paths, self.labels.tolist(), strict=True)
        lines = (f"{path.relative_to(base).as_posix()} {label}\n" for path, label in named)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _read(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        images, kept = Reader(self)[rows].unwrapped()
        if not kept:
            raise nothing_readable(self)
        return images, self.labels[rows][kept]


def nothing_readable(dataset: object) -> DataError:
    """Return what to raise where all images that are wanted are broken.

    Args:
        dataset: the data set.

    Returns:
        The error to raise.
    """
    return DataError(f"{dataset!r}: nothing but broken images; repair or remove them")


@dataclass(frozen=True)
class ReadResult:
    """A batch as read: images and their positions in the batch, or the errors."""

    images: Tensor | None
    kept: list[int]
    skipped: list[str]
    problem: str = ""

    def unwrapped(self) -> tuple[Tensor, list[int]]:
        """Return images ``(n, C, size, size)``, none where all are broken and skipped, and their places in the batch.

        Raises:
            DataError: a broken image that is not to be skipped.
        """
        for problem in self.skipped:
            warnings.warn(f"{problem}; it is skipped", UserWarning, stacklevel=3)
        if self.images is None:
            raise DataError(self.problem)
        return self.images, self.kept


@dataclass(frozen=True)
class Crop:
    """Where a random crop gets its draws from: they belong to example and epoch."""

    seed: int
    epoch: int


class Reader:
    """Reads batches of rows; what goes wrong is returned, for an exception would leave a worker as many lines."""

    def __init__(self, dataset: StreamingDataset, crop: Crop | None = None) -> None:
        self.dataset, self.crop = dataset, crop

    def __getitem__(self, rows: Sequence[int]) -> ReadResult:
        """Return the images of these rows."""
        images: list[Tensor] = []
        kept: list[int] = []
        skipped: list[str] = []
        for place, row in enumerate(rows):
            try:
                images.append(self._image(row))
                kept.append(place)
            except DataError as error:
                if not self.dataset.skip:
                    return ReadResult(None, [], [], str(error))
                skipped.append(str(error))
        return ReadResult(torch.stack(images) if images else self._none(), kept, skipped)

    def _none(self) -> Tensor:
        channels = 1 if self.dataset.mode == GREY else 3
        return torch.empty(0, channels, *sides(self.dataset.size), dtype=torch.uint8)

    def _image(self, row: int) -> Tensor:
        with open_image(self.dataset.paths[row]) as image:
            upright = ImageOps.exif_transpose(image)
            if self.crop is not None:
                upright = upright.crop(random_window(upright, row, self.crop))
            return pixels(upright, self.dataset.mode, self.dataset.size, self.dataset.bits)


def random_window(image: Image.Image, row: int, crop: Crop) -> tuple[int, int, int, int]:
    """Return a random window: its share of the image uniform, its shape log-uniform, its place uniform.

    Args:
        image: the image.
        row: row of the example.
        crop: seed and epoch of the draws.

    Returns:
        Left, top, right and bottom, in pixels.
    """
    draws = example_rng.uniform(torch.tensor([row]), (4,), crop.seed, _STREAM + crop.epoch)[0].tolist()
    share = _AREA[0] + draws[0] * (_AREA[1] - _AREA[0])
    ratio = _RATIO[0] * (_RATIO[1] / _RATIO[0]) ** draws[1]
    area = share * image.width * image.height
    width = min(image.width, max(1, round(math.sqrt(area * ratio))))
    height = min(image.height, max(1, round(math.sqrt(area / ratio))))
    left, top = int(draws[2] * (image.width - width + 1)), int(draws[3] * (image.height - height + 1))
    return left, top, left + width, top + height


def read_batches(reader: Reader, batches: Sequence[Tensor], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each batch of rows in turn, its images and those of its rows that could be read.

    Args:
        reader: reads a batch.
        batches: rows of each batch.
        workers: processes that read ahead; their number changes nothing but the time.

    Yields:
        Images ``(B, C, H, W)`` in uint8, and the rows ``(B,)`` that could be read.

    Raises:
        DataError: a broken image.
    """
    # a generator of its own: the loader draws from it, and the run's must not depend on how data come
    loader: DataLoader[ReadResult] = DataLoader(
        reader,  # type: ignore[arg-type]  # it has the methods that a loader with its own batches needs
        sampler=[rows.tolist() for rows in batches],
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),
    )
    for rows, read in zip(batches, loader, strict=True):
        images, kept = read.unwrapped()
        yield images, rows[kept]

"""CIFAR-10 (Krizhevsky 2009), from its binary distribution: plain records, so nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch

from advreg.data.dataset import Dataset
from advreg.data.download import Progress, cache_folder, download, find
from advreg.errors import DataError

NAME = "cifar10"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_ARCHIVE = "cifar-10-binary.tar.gz"
_URL = f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}"
_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_TRAIN = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
_TEST = ("test_batch.bin",)
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes


def cifar10(progress: Progress | None = None) -> tuple[Dataset, Dataset]:
    """Return CIFAR-10, 60,000 photographs of 3x32x32; downloaded (170 MB) where it is nowhere found.

    Args:
        progress: called during a download with bytes so far and bytes in all.

    Returns:
        The training set and the test set.

    Raises:
        DataError: the archive cannot be downloaded or is damaged.

    Reference: Krizhevsky, "Learning multiple layers of features from tiny images", technical report, University of
    Toronto, 2009.
    """
    folder = find(NAME, [_ARCHIVE])
    if folder is None:
        folder = cache_folder() / NAME
        download(_URL, folder / _ARCHIVE, check_archive, progress)
    return _read(folder / _ARCHIVE)


@cache
def _read(path: Path) -> tuple[Dataset, Dataset]:
    check_archive(path)
    return read_archive(path)


def check_archive(path: Path, sha256: str = _SHA256) -> None:
    """Raise DataError unless the file is the published archive (170,052,171 bytes).

    Args:
        path: the archive.
        sha256: its published SHA-256.

    Raises:
        DataError: another checksum.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DataError(f"{path}: SHA-256 is {found}, expected {sha256}; delete it and fetch it again")


def read_archive(path: Path) -> tuple[Dataset, Dataset]:
    """Read an archive of the binary distribution.

    Args:
        path: a ``.tar.gz`` with ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``.

    Returns:
        The training set and the test set.

    Raises:
        DataError: damaged, or a batch is missing or incomplete.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            batches = {Path(m.name).name: _content(archive, m) for m in archive if m.name.endswith(".bin")}
    except (tarfile.TarError, EOFError, zlib.error, OSError) as cause:
        raise DataError(f"{path}: truncated or damaged archive ({cause}); delete it and fetch it again") from cause
    return _dataset(path, batches, _TRAIN, "train"), _dataset(path, batches, _TEST, "test")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _dataset(path: Path, batches: dict[str, bytes], wanted: Iterable[str], split: str) -> Dataset:
    missing = [file for file in wanted if len(batches.get(file, b"")) % _RECORD or not batches.get(file)]
    if missing:
        raise DataError(f"{path}: {missing[0]} is missing or incomplete; delete it and fetch it again")
    data = bytearray(b"".join(batches[file] for file in wanted))
    records = torch.frombuffer(data, dtype=torch.uint8).view(-1, _RECORD)
    images = records[:, 1:].reshape(-1, *_SHAPE)
    return Dataset(images, records[:, 0].long(), CLASSES, NAME, split)

"""IDX files, the format of MNIST and its likes: a type, sizes (big-endian), then bytes, all gzipped."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from advreg.data.dataset import Dataset
from advreg.errors import DataError

_UINT8 = 8
FILES = {
    ("train", "images"): "train-images-idx3-ubyte.gz",
    ("train", "labels"): "train-labels-idx1-ubyte.gz",
    ("test", "images"): "t10k-images-idx3-ubyte.gz",
    ("test", "labels"): "t10k-labels-idx1-ubyte.gz",
}


def read_idx(path: Path, sha256: str | None = None) -> Tensor:
    """Read a gzipped IDX file of unsigned bytes.

    Args:
        path: the file.
        sha256: what the unpacked bytes must hash to.

    Returns:
        uint8, of the shape that the file states.

    Raises:
        DataError: absent, damaged, truncated, of another type, or with another checksum.
    """
    data = bytearray(_unpack(path))
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise DataError(f"{path}: SHA-256 of the unpacked file is {found}, expected {sha256}; fetch it again")
    if len(data) < 4 or data[:3] != bytes([0, 0, _UINT8]) or len(data) < (start := 4 + 4 * data[3]):
        raise DataError(f"{path}: not an IDX file of unsigned bytes; fetch it again")
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise DataError(f"{path}: {len(data) - start} bytes where {shape} needs {math.prod(shape)}; fetch it again")
    return torch.frombuffer(data, dtype=torch.uint8, offset=start).view(shape)


def _unpack(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as cause:
        raise DataError(f"{path}: truncated or damaged gzip file ({cause}); fetch it again") from cause
    except OSError as cause:
        raise DataError(f"{path}: cannot be read ({cause.strerror})") from cause


def read_pair(folder: Path, name: str, classes: tuple[str, ...], sums: Mapping[str, str]) -> tuple[Dataset, Dataset]:
    """Read the four files of a data set of MNIST's form.

    Args:
        folder: where they lie.
        name: name of the data set.
        classes: name of each class.
        sums: SHA-256 of each unpacked file, by file name.

    Returns:
        The training set and the test set.

    Raises:
        DataError: a file is absent, damaged, or has another checksum.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> images, labels = struct.pack(">4I4x", 0x803, 1, 2, 2), struct.pack(">2Ix", 0x801, 1)
        >>> content = {"images": images, "labels": labels}
        >>> for (_, kind), file in FILES.items():
        ...     _ = (root / file).write_bytes(gzip.compress(content[kind]))
        >>> sums = {file: hashlib.sha256(content[kind]).hexdigest() for (_, kind), file in FILES.items()}
        >>> read_pair(root, "dots", ("dot",), sums)[1]
        <dots/test: 1 images of 1x2x2, 1 classes>
    """
    parts = {key: read_idx(folder / file, sums[file]) for key, file in FILES.items()}
    train, test = (
        Dataset(parts[split, "images"].unsqueeze(1), parts[split, "labels"].long(), classes, name, split)
        for split in ("train", "test")
    )
    return train, test

"""A NumPy archive: ``x`` and ``y``, perhaps ``x_test``, ``y_test``, ``classes`` and ``columns``.

uint8 are images; floats are a table, signals or images with a box of their own.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from advreg.data.dataset import Dataset
from advreg.data.hash_split import is_test
from advreg.data.table import Box, Table
from advreg.errors import DataError, did_you_mean_path

_CHANNELS = (1, 3)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SMALL, _MOST_EXPANSION = 1 << 30, 100
"""An archive may unpack to 1 GiB, or to a hundred times its size if that is more."""
_LAYOUTS = "x must be floats (N, ...), or uint8 (N, C, H, W), (N, H, W, C) or (N, H, W), with C 1 or 3"
Parts = list[tuple[Tensor, Tensor]]


def npz(path: str, box: Box | None = None) -> tuple[Dataset, Dataset] | tuple[Table, Table]:
    """Read a data set from a ``.npz`` file; without ``x_test`` a fixed fifth of the rows is held out.

    Args:
        path: the file; object arrays, which would need unpickling, are rejected.
        box: lowest and highest valid value of floats; uint8 have the box of pixels.

    Returns:
        The training set and the test set.

    Raises:
        DataError: unreadable, an array missing, or arrays of another type or shape.
    """
    file = Path(path).expanduser()
    arrays = read_arrays(file)
    x, y = _part(file, arrays, "x", "y")
    if "x_test" in arrays:
        parts = [(x, y), _part(file, arrays, "x_test", "y_test")]
    else:
        held = torch.tensor([is_test(str(row)) for row in range(len(x))], dtype=torch.bool)
        parts = [(x[~held], y[~held]), (x[held], y[held])]
    if box is not None and x.dtype == torch.uint8:
        raise DataError(f"{file}: x is uint8 and has the box of pixels; leave ?box= out")
    classes = _classes(arrays, parts)
    name = f"npz:{file.stem}"
    try:
        if x.dtype == torch.uint8:
            return _images(parts, classes, name)
        return _tables(parts, classes, name, box, tuple(str(each) for each in arrays.get("columns", ())))
    except DataError as cause:
        raise DataError(f"{file}: {cause}") from cause


def _images(parts: Parts, classes: list[str] | int, name: str) -> tuple[Dataset, Dataset]:
    train, test = (
        Dataset.from_tensors(images, labels, classes, name, split)
        for (images, labels), split in zip(parts, ("train", "test"), strict=True)
    )
    return train, test


def _tables(
    parts: Parts, classes: list[str] | int, name: str, box: Box | None, columns: tuple[str, ...]
) -> tuple[Table, Table]:
    names = tuple(str(k) for k in range(classes)) if isinstance(classes, int) else tuple(classes)
    train, test = (
        Table(values, labels, names, name, split, box, columns)
        for (values, labels), split in zip(parts, ("train", "test"), strict=True)
    )
    return train, test


def read_arrays(file: Path) -> dict[str, Any]:
    """Return the arrays of an archive by name; nothing is unpickled.

    Args:
        file: the ``.npz`` file.

    Returns:
        Arrays by name.

    Raises:
        DataError: no file, a damaged one, or one with pickled objects.
    """
    try:
        with file.open("rb") as stream:
            _check_sizes(stream)
            archive = np.load(stream, allow_pickle=False)
            arrays = dict(archive) if isinstance(archive, np.lib.npyio.NpzFile) else None
    except FileNotFoundError as cause:
        raise DataError(f"no file {file}.{did_you_mean_path(file)} Give npz:PATH") from cause
    except DataError as cause:
        raise DataError(f"{file}: {cause}") from cause
    except (
        ValueError,
        EOFError,
        MemoryError,
        RuntimeError,
        OSError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
    ) as cause:
        raise DataError(f"{file}: truncated, damaged, or pickled objects, which are never read") from cause
    if arrays is None:
        raise DataError(f"{file} is a single array; save it with numpy.savez(path, x=..., y=...)")
    return arrays


def _check_sizes(stream: BinaryIO) -> None:
    """Check that arrays are as large as their headers claim, before memory is taken for them."""
    stream.seek(0, 2)
    size = stream.tell()
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > max(_SMALL, _MOST_EXPANSION * size):
                raise DataError(f"{size} bytes would unpack to {unpacked}; save the arrays without compression")
            for member in archive.infolist():
                with archive.open(member) as part:
                    _check_header(part, member.file_size, member.filename)
    stream.seek(0)


def _check_header(part: IO[bytes], size: int, name: str) -> None:
    version = np.lib.format.read_magic(part)
    if version not in _HEADERS:
        raise DataError(f"{name} has format {version}, which numbers never need; save it with numpy.savez")
    shape, _, dtype = _HEADERS[version](part)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != size - part.tell() and not dtype.hasobject:
        raise DataError(f"{name} claims {claimed} bytes and holds {size - part.tell()}; the file is damaged")


def _part(file: Path, arrays: dict[str, Any], x_key: str, y_key: str) -> tuple[Tensor, Tensor]:
    missing = [key for key in (x_key, y_key) if key not in arrays]
    if missing:
        raise DataError(f"{file}: no array {missing[0]!r}, found {sorted(arrays)}; save x and y, or x_test and y_test")
    x, y = arrays[x_key], arrays[y_key]
    if x.dtype != np.uint8 and (x.dtype.kind != "f" or x.ndim < 2):
        raise DataError(f"{file}: {x_key} is {x.dtype} {x.shape}; {_LAYOUTS}")
    if y.dtype.kind not in "iu" or y.ndim != 1:
        task = (
            "; name the task of other targets: --task pixels, or [task] in run.toml"
            if y.ndim > 1 or y.dtype.kind == "f"
            else ""
        )
        raise DataError(f"{file}: {y_key} is {y.dtype} {y.shape}; it must hold whole numbers (N,){task}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        row = int(np.nonzero(~np.isfinite(x).reshape(len(x), -1).all(1))[0][0])
        raise DataError(f"{file}: {x_key} holds NaN or infinity, first in row {row}; fill them or leave the rows out")
    values = _planes(file, x_key, x) if x.dtype == np.uint8 else torch.from_numpy(np.ascontiguousarray(x, np.float32))
    return values, torch.from_numpy(y.astype(np.int64))


def _planes(file: Path, key: str, x: Any) -> Tensor:
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or not {x.shape[1], x.shape[3]} & set(_CHANNELS):
        raise DataError(f"{file}: {key} has shape {x.shape}; {_LAYOUTS}")
    planes = x if x.shape[1] in _CHANNELS else x.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(planes))


def _classes(arrays: dict[str, Any], parts: list[tuple[Tensor, Tensor]]) -> list[str] | int:
    if "classes" in arrays:
        return [str(name) for name in arrays["classes"]]
    return max(int(y.max()) for _, y in parts if len(y)) + 1

"""Data of tasks other than classification: inputs with targets of any shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advreg.data.hash_split import is_test
from advreg.data.images import parse_size
from advreg.data.loading import SCHEMES, load, split_options
from advreg.data.loading import Pair as AnyPair
from advreg.data.masks import mask_folder
from advreg.data.npz import read_arrays
from advreg.data.table import UNIT, Box, Table
from advreg.data.table_files import table_targets
from advreg.errors import DataError
from advreg.plugins import call_factory, is_factory

Pair = tuple[Any, Any]


def load_targets(name: str) -> AnyPair:
    """Return training and test examples of a task, inputs ``(N, ...)`` with targets ``(N, ...)``.

    Args:
        name: ``npz:FILE`` with the arrays ``x`` and ``y``, perhaps ``x_test`` and ``y_test``; ``csv:FILE?label=COLUMN`` or
            ``parquet:`` with a number column, or several label columns separated by commas; ``folder:PATH`` with images and
            masks; or ``pkg.module:factory``, called without arguments, which returns ``(x, y), (x_test, y_test)``. Inputs of
            uint8 become floats in [0, 1]; others may have ``?box=low,high``. Other names give labels of classes, see `load`.

    Returns:
        Training and test examples; without a test part a fixed fifth of the rows is held out.

    Raises:
        DataError: another form of name, an array or column missing, or inputs and targets of unequal length.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "masks.npz"
        >>> np.savez(file, x=np.zeros((20, 3, 8, 8), np.uint8), y=np.zeros((20, 8, 8), np.int64))
        >>> load_targets(f"npz:{file}")[1]
        <npz:masks/test: 4 images of 3x8x8, targets (N, 8, 8), box [0, 1]>
    """
    scheme, _, rest = name.partition(":")
    if scheme in ("csv", "parquet") and rest:
        path, options = split_options(rest, SCHEMES[scheme][1])
        return table_targets(scheme, path, **options)
    if scheme == "npz" and rest:
        path, options = split_options(rest, SCHEMES[scheme][1])
        return _tables(name, f"npz:{Path(path).stem}", _of_arrays(Path(path).expanduser()), options.get("box"))
    if scheme == "folder" and rest and _has_masks(rest):
        path, options = split_options(rest, {"size": parse_size, "mode": str})
        return _tables(name, f"folder:{Path(path).name}", mask_folder(path, **options))
    if is_factory(name):
        return _tables(name, name, _of_factory(name, call_factory(name, DataError)))
    return load(name)


def _has_masks(rest: str) -> bool:
    root = Path(rest.partition("?")[0]).expanduser()
    return any((place / "images").is_dir() and (place / "masks").is_dir() for place in (root, root / "train"))


def _of_arrays(file: Path) -> tuple[Pair, Pair]:
    arrays = read_arrays(file)
    missing = next((key for key in ("x", "y") if key not in arrays), None)
    if missing is not None:
        raise DataError(f"{file}: no array {missing!r}, found {sorted(arrays)}; save x and y, and x_test with y_test")
    x, y = arrays["x"], arrays["y"]
    if "x_test" in arrays:
        return (x, y), (arrays["x_test"], arrays.get("y_test", ()))
    _require_same_length(str(file), x, y)
    held = np.array([is_test(str(row)) for row in range(len(x))], dtype=bool)
    if held.all() or not held.any():
        raise DataError(f"{file}: {len(x)} rows are too few to split; save x_test and y_test too")
    return (x[~held], y[~held]), (x[held], y[held])


def _of_factory(name: str, made: Any) -> tuple[Pair, Pair]:
    try:
        (x, y), (x_test, y_test) = made
    except (TypeError, ValueError):
        raise DataError(f"{name} returns {type(made).__name__}; return (x, y), (x_test, y_test)") from None
    return (x, y), (x_test, y_test)


def _require_same_length(place: str, x: Any, y: Any) -> None:
    if not len(x) or len(x) != len(y):
        raise DataError(f"{place}: {len(x)} inputs and {len(y)} targets; give one for each")


def _tables(place: str, name: str, parts: tuple[Pair, Pair], box: Box | None = None) -> tuple[Table, Table]:
    train, test = (_table(place, name, split, pair, box) for split, pair in zip(("train", "test"), parts, strict=True))
    return train, test


def _table(place: str, name: str, split: str, pair: Pair, box: Box | None) -> Table:
    _require_same_length(place, *pair)
    x, y = (part if isinstance(part, Tensor) else torch.as_tensor(np.asarray(part)) for part in pair)
    if not x.is_floating_point() and x.dtype != torch.uint8:
        raise DataError(f"{place}: x is {x.dtype}; give uint8 images, or floats in the box of the threat")
    values = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    targets = y.long() if y.dtype in (torch.bool, torch.uint8) else y
    try:
        return Table(values, targets, (), name, split, UNIT if x.dtype == torch.uint8 else box)
    except DataError as cause:
        raise DataError(f"{place}: {cause}") from cause

"""Data of tasks other than classification: inputs with targets of any shape, from an archive or a factory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advreg.data.hash_split import is_test
from advreg.data.npz import read_arrays
from advreg.errors import DataError
from advreg.plugins import call_factory, is_factory

Pair = tuple[Tensor, Tensor]


def load_targets(name: str) -> tuple[Pair, Pair]:
    """Return training and test examples of a task, each inputs ``(N, ...)`` and targets ``(N, ...)``.

    Args:
        name: ``npz:FILE`` with the arrays ``x`` and ``y``, perhaps ``x_test`` and ``y_test``; or ``pkg.module:factory``, called
            without arguments, which returns ``(x, y), (x_test, y_test)``. Inputs of uint8 become floats in [0, 1].

    Returns:
        Training and test examples; without ``x_test`` a fixed fifth of the rows is held out.

    Raises:
        DataError: another form of name, an array missing, or inputs and targets of unequal length.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "masks.npz"
        >>> np.savez(file, x=np.zeros((20, 3, 8, 8), np.uint8), y=np.zeros((20, 8, 8), np.int64))
        >>> (x, y), (x_test, y_test) = load_targets(f"npz:{file}")
        >>> len(x) + len(x_test), x.dtype, y.shape[1:]
        (20, torch.float32, torch.Size([8, 8]))
    """
    scheme, _, rest = name.partition(":")
    if scheme == "npz" and rest:
        return _of_arrays(Path(rest).expanduser())
    if is_factory(name):
        return _of_factory(name, call_factory(name, DataError))
    raise DataError(f"data {name!r} holds labels of classes; a task takes npz:FILE with x and y, or pkg.module:factory")


def _of_arrays(file: Path) -> tuple[Pair, Pair]:
    arrays = read_arrays(file)
    train = _pair(str(file), arrays.get("x"), arrays.get("y"))
    if "x_test" in arrays:
        return train, _pair(str(file), arrays["x_test"], arrays.get("y_test"))
    held = torch.tensor([is_test(str(row)) for row in range(len(train[0]))], dtype=torch.bool)
    return (train[0][~held], train[1][~held]), (train[0][held], train[1][held])


def _of_factory(name: str, made: Any) -> tuple[Pair, Pair]:
    try:
        (x, y), (x_test, y_test) = made
    except (TypeError, ValueError):
        raise DataError(f"{name} returns {type(made).__name__}; return (x, y), (x_test, y_test)") from None
    return _pair(name, x, y), _pair(name, x_test, y_test)


def _pair(place: str, x: Any, y: Any) -> Pair:
    if x is None or y is None:
        raise DataError(f"{place}: no x or no y; save x and y, and x_test with y_test")
    inputs, targets = (torch.as_tensor(np.asarray(part)) if not isinstance(part, Tensor) else part for part in (x, y))
    if not len(inputs) or len(inputs) != len(targets):
        raise DataError(f"{place}: {len(inputs)} inputs and {len(targets)} targets; give one for each")
    if inputs.dtype == torch.uint8:
        return inputs.float() / 255, targets
    if not inputs.is_floating_point():
        raise DataError(f"{place}: x is {inputs.dtype}; give uint8 images, or floats in the box of the threat")
    return inputs.float(), targets

"""Single inputs and labels as tensors: arrays without a copy where torch allows it, pictures of Pillow as pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advreg.attacks.inputs import as_tensor
from advreg.data.dataset import to_float
from advreg.data.images import GREY, RGB, pixels
from advreg.errors import DataError

_GREY = ("1", "L", "I;16")


def to_tensor(values: Any, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """Return numbers as a contiguous tensor, without a copy where torch allows that.

    Args:
        values: a tensor, an array, a picture of Pillow, or nested lists.
        name: what the values are, for the error.
        dtype: floating type for arrays in float64, NumPy's default; float32 if None. Tensors keep theirs.

    Returns:
        The tensor; pictures as float32 ``(C, H, W)`` in [0, 1].

    Raises:
        DataError: objects, text or complex numbers, or rows of unequal length.

    Example:
        >>> to_tensor(np.zeros((2, 3)), "x").dtype
        torch.float32
    """
    if isinstance(values, Tensor):
        return values.contiguous()
    if isinstance(values, Image.Image):
        return to_float(pixels(values, GREY if values.mode in _GREY else RGB, None))
    if isinstance(values, np.ndarray | np.generic):
        return _of_array(np.asarray(values), name, dtype)
    return as_tensor(values, name).contiguous()


def _of_array(array: Any, name: str, dtype: torch.dtype | None) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{name} is an array of {array.dtype}, which is not numbers; give numbers as floats or whole numbers"
        )
    plain = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    try:
        tensor = torch.from_numpy(np.ascontiguousarray(plain)).reshape(array.shape)
    except TypeError as cause:
        raise DataError(f"{name} is an array of {array.dtype}; give float32 or float64") from cause
    return tensor.to(dtype or torch.float32) if tensor.dtype == torch.float64 else tensor


def stack_inputs(inputs: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
    """Return inputs of single rows as one tensor.

    Args:
        inputs: inputs of one shape, at least one.
        dtype: see `to_tensor`.

    Returns:
        ``(N, ...)``.

    Raises:
        DataError: inputs of unequal shapes.

    Example:
        >>> stack_inputs([[1.0, 2.0], [3.0, 4.0]]).shape
        torch.Size([2, 2])
    """
    tensors = [to_tensor(each, "x", dtype) for each in inputs]
    for row, each in enumerate(tensors):
        if each.shape != tensors[0].shape:
            first, other = tuple(tensors[0].shape), tuple(each.shape)
            raise DataError(
                f"row 0 is {first} and row {row} is {other}; give inputs of one shape: resize them in the transform, "
                "or load a folder with ?size="
            )
    return torch.stack(tensors)


def label_of(label: Any, row: int) -> Tensor:
    """Return the label of a row as a tensor.

    Args:
        label: a number, an array or a tensor.
        row: number of the row, for the error.

    Returns:
        ``()`` for a class, or the shape that the label has.

    Raises:
        DataError: text or nothing.

    Example:
        >>> label_of(3, row=0)
        tensor(3)
    """
    if label is None or isinstance(label, str | bytes):
        raise DataError(f"the label of row {row} is {label!r}; give the number of its class, from 0")
    return to_tensor(label, "y")

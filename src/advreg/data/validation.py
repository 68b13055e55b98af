"""What pixels and labels must be before anything is computed from them."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.documents import MOST_CLASSES
from advreg.errors import DataError


def check_pixels(x: Tensor, box: tuple[float, float] = (0.0, 1.0)) -> None:
    """Raise for inputs of a wrong type or shape, with NaN, or outside the box.

    Args:
        x: inputs ``(B, ...)``, floating point; images are ``(B, C, H, W)``.
        box: lowest and highest value allowed.

    Raises:
        DataError: with the remedy.

    Example:
        >>> check_pixels(torch.rand(2, 1, 28, 28))
        >>> check_pixels(255 * torch.ones(2, 1, 28, 28))
        Traceback (most recent call last):
        ...
        advreg.errors.DataError: pixels reach 255, allowed 0 to 1: they look like 0-255, divide them by 255
    """
    if not isinstance(x, Tensor):
        raise DataError(f"inputs must be a torch.Tensor, given {type(x).__name__}; use torch.as_tensor")
    if not x.is_floating_point():
        raise DataError(
            f"inputs must be floating point in {_span(box)}, given {_name(x)}; for 0-255 use x.float() / 255"
        )
    if x.dim() < 2 or x.numel() == 0:
        raise DataError(f"inputs must be a batch (B, C, H, W) that is not empty, given shape {tuple(x.shape)}")
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if not (low > -float("inf") and high < float("inf")):  # false for NaN too
        bad = int((~torch.isfinite(x)).flatten(1).any(1).nonzero()[0, 0])
        raise DataError(f"inputs hold NaN or infinity, first in example {bad}; remove or repair such examples")
    if low < box[0] or high > box[1]:
        raise DataError(_outside(low, high, box))


def _outside(low: float, high: float, box: tuple[float, float]) -> str:
    worst = high if high > box[1] else low
    if low >= 0 and high > 2 * box[1]:
        return f"pixels reach {worst:g}, allowed {_span(box)}: they look like 0-255, divide them by 255"
    return (
        f"pixels reach {worst:g}, allowed {_span(box)}: "
        "put the normalisation inside the model, advreg.normalized(model, mean, std), and give raw pixels"
    )


def check_labels(y: Tensor, classes: int | None = None) -> None:
    """Raise for labels that are not integers in ``[0, classes)``.

    Args:
        y: labels ``(B,)``.
        classes: number of classes, where known.

    Raises:
        DataError: with the first offending example.

    Example:
        >>> check_labels(torch.tensor([0, 9]), classes=10)
        >>> check_labels(torch.tensor([0, 10]), classes=10)
        Traceback (most recent call last):
        ...
        advreg.errors.DataError: label 10 of example 1 is outside 0..9
    """
    if not isinstance(y, Tensor):
        raise DataError(f"labels must be a torch.Tensor, given {type(y).__name__}; use torch.as_tensor")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DataError(f"labels must be whole numbers (int64), given {_name(y)}; use y.long()")
    if y.dim() != 1 or len(y) == 0:
        raise DataError(f"labels must have shape (B,) and not be empty, given {tuple(y.shape)}; one class index each")
    wrong = y < 0 if classes is None else (y < 0) | (y >= classes)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        allowed = "negative" if classes is None else f"outside 0..{classes - 1}"
        raise DataError(f"label {int(y[row])} of example {row} is {allowed}")
    if int(y.max()) >= MOST_CLASSES:  # names are made for every class up to the largest label
        row = int(y.argmax())
        raise DataError(f"label {int(y[row])} of example {row} is too large; number the classes from 0 without gaps")


def check_pair(x: Tensor, y: Tensor, classes: int | None = None, box: tuple[float, float] = (0.0, 1.0)) -> None:
    """Raise for inputs and labels that do not fit each other.

    Args:
        x: inputs ``(B, ...)``, floating point, inside the box.
        y: labels ``(B,)``, integers in ``[0, classes)``.
        classes: number of classes, where known.
        box: lowest and highest value allowed.

    Raises:
        DataError: wrong inputs, wrong labels, or unequal lengths.

    Example:
        >>> check_pair(torch.zeros(2, 4), torch.tensor([0]))
        Traceback (most recent call last):
        ...
        advreg.errors.DataError: 2 inputs but 1 labels; each input needs one label
    """
    check_pixels(x, box)
    check_labels(y, classes)
    if len(x) != len(y):
        raise DataError(f"{len(x)} inputs but {len(y)} labels; each input needs one label")


def _name(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")


def _span(box: tuple[float, float]) -> str:
    return f"{box[0]:g} to {box[1]:g}"

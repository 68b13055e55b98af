"""Inputs of attacks: inputs, labels and eps as tensors that fit each other and the box; anything else raises one line.

read_batch        for attacks that evaluate: every value is checked
read_training     for training attacks: one reduction per batch checks the box, labels are checked at the first query
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advreg.attacks.input_limits import BoxedThreat, reject_limits, reject_radii
from advreg.attacks.readback import Read, read_later, read_now
from advreg.errors import DataError
from advreg.tasks import CLASSES, Task

NAME_A_TASK = "several labels: task='labels'; numbers: task='number'; masks: task='pixels'"
"""What to do with targets that are no labels of classes."""
"""Remedy for targets that are no labels of a classifier."""

_SLACK = 1e-3
"""Excess over the box that is clamped, in widths of the box: what rounding adds where a normalisation is undone."""
_SUM = 1e-2
"""Allowed deviation of a sum of 16-bit probabilities from 1."""


def as_tensor(values: Any, name: str) -> Tensor:
    """Return numbers as a tensor: a tensor unchanged, NumPy arrays and nested lists as copies.

    Args:
        values: the numbers; Python floats get torch's default dtype, NumPy arrays keep theirs.
        name: name of the argument, for the error.

    Raises:
        DataError: values that are not numbers, or rows of unequal length.

    Example:
        >>> as_tensor([[0.5, 1.0]], "x")
        tensor([[0.5000, 1.0000]])
    """
    if isinstance(values, Tensor):
        return values
    try:
        if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor):
            return torch.stack([as_tensor(value, name) for value in values])
        tensor = torch.from_numpy(np.array(values))
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"{name} is a {type(values).__name__} that is not numbers in rows of equal length; "
            "give a tensor, a NumPy array or nested lists of numbers"
        ) from None
    is_python = tensor.dtype == torch.float64 and not isinstance(values, np.ndarray)
    return tensor.to(torch.get_default_dtype()) if is_python else tensor


def read_inputs(x: Any, box: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Return inputs as floats ``(B, ...)``.

    Args:
        x: inputs as a tensor, a NumPy array or nested lists.
        box: lowest and highest valid value of an input, for the error.

    Raises:
        DataError: integers (their scale is unknown), one number per example without a feature dimension, or an empty batch.
    """
    low, high = box
    found = as_tensor(x, "x")
    if not found.is_floating_point():
        raise DataError(f"x is {found.dtype}; give floats in [{low:g}, {high:g}], such as images.float() / 255")
    if found.ndim < 2 or not found.numel():
        raise DataError(f"x is {tuple(found.shape)}; give a batch (B, ...) of at least one example")
    return found


def read_images(x: Any, box: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Return images as floats ``(B, C, H, W)``.

    Args:
        x: images as a tensor, a NumPy array or nested lists.
        box: lowest and highest valid value of an input, for the error.

    Raises:
        DataError: integers, an empty batch, or inputs of another shape.

    Example:
        >>> read_images([[[[0.0, 0.5]]]]).shape
        torch.Size([1, 1, 1, 2])
    """
    images = read_inputs(x, box)
    if images.ndim != 4:
        raise DataError(f"x is {tuple(images.shape)}; give images (B, C, H, W)")
    return images


def read_labels(y: Any, x: Tensor) -> Tensor:
    """Return labels ``(B,)`` as int64 from any integer type, or probabilities ``(B, K)`` in at least float32.

    A column of labels ``(B, 1)`` counts as ``(B,)``.

    Args:
        y: labels or probabilities as a tensor, a NumPy array or nested lists.
        x: the inputs, for device, dtype and number of examples.

    Raises:
        DataError: another shape or type, or another number of examples than ``x`` has.

    Example:
        >>> read_labels([[1], [0]], torch.zeros(2, 3))
        tensor([1, 0])
    """
    found = as_tensor(y, "y").to(x.device)
    shape, whole = tuple(found.shape), not (found.is_floating_point() or found.is_complex())
    if whole and found.ndim == 2 and shape[1] == 1:
        found = found[:, 0]
    if not found.ndim or len(found) != len(x):
        raise DataError(f"x is {tuple(x.shape)} and y is {shape}; give (B, ...) and (B,), B at least 1")
    if whole and found.ndim == 1:
        return found.long()
    if found.is_floating_point() and found.ndim == 2 and shape[1] > 1:
        return found.to(torch.promote_types(x.dtype, torch.float32))
    allowed = "give labels 0 to classes-1 as integers (B,), or probabilities (B, K) as floats"
    raise DataError(f"y is {found.dtype} {shape}; {allowed}; {NAME_A_TASK}")


def read_batch(x: Any, y: Any, ball: BoxedThreat) -> tuple[Tensor, Tensor]:
    """Return inputs and labels as tensors that fit each other, the box and eps, for an attack that evaluates.

    Args:
        x: inputs ``(B, ...)``: floats in the box, as a tensor, a NumPy array or nested lists.
        y: labels ``(B,)`` or ``(B, 1)`` of any integer type, or probabilities ``(B, K)``.
        ball: the threat model.

    Raises:
        DataError: inputs, labels or eps that do not fit; one line with what was given, what is allowed and what to do.
    """
    x = read_inputs(x, ball.box)
    y = read_labels(y, x)
    x = into_box(x, ball.box)
    if y.ndim == 1 and int(y.min()) < 0:
        raise DataError(f"y holds label {int(y.min())}; give labels 0 to classes-1 as integers")
    if y.ndim == 2 and not (bool((y >= 0).all()) and bool(((y.sum(1) - 1).abs() < _SUM).all())):
        raise DataError(
            "y holds floats that are not probabilities; give rows of numbers >= 0 that sum to 1, or labels (B,); "
            + NAME_A_TASK
        )
    reject_radii(x, ball)
    reject_limits(x, ball)
    return x, y


def read_targets(y: Any, x: Tensor) -> Tensor:
    """Return the targets of a task ``(B, ...)``: whole numbers as int64, floats in at least float32.

    Args:
        y: targets as a tensor, a NumPy array or nested lists.
        x: the inputs, for device, dtype and number of examples.

    Raises:
        DataError: another number of examples than ``x`` has, complex numbers, NaN or infinity.

    Example:
        >>> read_targets([[True, False]], torch.zeros(1, 3))
        tensor([[1, 0]])
    """
    found = as_tensor(y, "y").to(x.device)
    if not found.ndim or len(found) != len(x):
        raise DataError(f"x is {tuple(x.shape)} and y is {tuple(found.shape)}; give one target for each input")
    if found.is_complex():
        raise DataError(f"y is {found.dtype}; give whole numbers or floats")
    if not found.is_floating_point():
        return found.long()
    bad = int((~torch.isfinite(found)).flatten().sum())
    if bad:
        raise DataError(f"y holds NaN or infinity in {bad} places; repair these targets or leave their examples out")
    return found.to(torch.promote_types(x.dtype, torch.float32))


def read_examples(x: Any, y: Any, ball: BoxedThreat, task: Task = CLASSES) -> tuple[Tensor, Tensor]:
    """Return inputs and targets as tensors that fit each other, the box and eps, for an attack that evaluates.

    Args:
        x: inputs ``(B, ...)``: floats in the box, as a tensor, a NumPy array or nested lists.
        y: labels or probabilities of a classifier, or targets of the task ``(B, ...)``.
        ball: the threat model.
        task: what an output is worth.

    Returns:
        Inputs ``(B, ...)`` and targets ``(B, ...)``.

    Raises:
        DataError: inputs, targets or eps that do not fit; one line with what was given, what is allowed and what to do.
    """
    if task is CLASSES:
        return read_batch(x, y, ball)
    x = read_inputs(x, ball.box)
    y = read_targets(y, x)
    x = into_box(x, ball.box)
    reject_radii(x, ball)
    reject_limits(x, ball)
    return x, y


def read_ids(ids: Any, x: Tensor) -> Tensor:
    """Return example ids ``(B,)``; 0 to B-1 if ``ids`` is None.

    Raises:
        DataError: another number of ids than examples, or ids that are not integers.
    """
    if ids is None:
        return torch.arange(len(x), device=x.device)
    found = as_tensor(ids, "ids").to(x.device)
    if not found.ndim or len(found) != len(x) or found.is_floating_point() or found.is_complex():
        raise DataError(f"ids are {found.dtype} {tuple(found.shape)} for {len(x)} examples; give one integer for each")
    return found


def read_pair(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Return a training batch as tensors that fit each other; values are not checked.

    Raises:
        DataError: wrong types or shapes, or an empty batch.
    """
    x = read_inputs(x)
    return x, read_labels(y, x)


def read_training(x: Any, y: Any, ball: BoxedThreat, task: Task = CLASSES) -> tuple[Tensor, Tensor]:
    """Return a training batch as tensors that fit each other, the box and eps; `checked_once` checks its labels.

    Args:
        x: inputs ``(B, ...)``: floats in the box, as a tensor, a NumPy array or nested lists.
        y: labels ``(B,)`` or ``(B, 1)`` of any integer type, or probabilities ``(B, K)``; targets of another task ``(B, ...)``.
        ball: the threat model.
        task: what an output is worth.

    Returns:
        Inputs ``(B, ...)`` and targets ``(B, ...)``.

    Raises:
        DataError: wrong types or shapes, an empty batch, or inputs outside the box.
    """
    x = read_inputs(x, ball.box)
    y = read_labels(y, x) if task is CLASSES else read_targets(y, x)
    x = into_box_once(x, ball.box)
    reject_radii(x, ball)
    reject_limits(x, ball)
    return x, y


def reject_outside(x: Tensor, box: tuple[float, float], slack: float = 0.0, read: Read = read_now) -> None:
    """Raise unless every value is a number inside the box; it costs one reduction.

    Args:
        x: inputs ``(B, ...)``.
        box: lowest and highest valid value of an input.
        slack: allowed excess in widths of the box.
        read: `read_now`, or `read_later` in a training step.

    Raises:
        DataError: values outside the box; the line has their range and the likely remedy.
    """
    values = x.detach()
    read(torch.stack(torch.aminmax(values)), lambda ends: _reject_range(values, ends, box, slack))


def into_box(x: Tensor, box: tuple[float, float], read: Read = read_now) -> Tensor:
    """Return inputs inside the box: an excess below 1e-3 of its width, as rounding leaves it, is clamped, more raises.

    Args:
        x: inputs ``(B, ...)``.
        box: lowest and highest valid value of an input.
        read: `read_now`, or `read_later` in a training step.

    Returns:
        The inputs unchanged where all are known to be inside, else clamped.

    Raises:
        DataError: values outside the box; the line has their range and the likely remedy.

    Example:
        >>> into_box(torch.tensor([[-1e-4, 0.5]]), (0.0, 1.0))
        tensor([[0.0000, 0.5000]])
    """
    values, known = x.detach(), []

    def verify(ends: list[float]) -> None:
        _reject_range(values, ends, box, _SLACK)
        known.extend(ends)

    read(torch.stack(torch.aminmax(values)), verify)
    low, high = box
    return x if known and low <= known[0] and known[1] <= high else x.clamp(low, high)


def _reject_range(x: Tensor, ends: list[float], box: tuple[float, float], slack: float) -> None:
    (low, high), most = box, slack * (box[1] - box[0])
    least, largest = ends
    if low - most <= least and largest <= high + most:
        return
    if not (least > -float("inf") and largest < float("inf")):  # NaN compares false
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        raise DataError(f"x holds NaN or infinity in {bad} examples; repair them or leave them out")
    excess = max(low - least, largest - high)
    if excess < 1e-2 * (high - low):
        raise DataError(
            f"x is outside the box [{low:g}, {high:g}] by {excess:.2g}; round it back: x.clamp({low:g}, {high:g})"
        )
    raise DataError(
        f"x spans [{least:g}, {largest:g}] outside the box [{low:g}, {high:g}]; {_remedy(least, largest, box)}"
    )


def _remedy(least: float, largest: float, box: tuple[float, float]) -> str:
    """Return the likely remedy for inputs with this range instead of the box."""
    if box == (0.0, 1.0) and least >= 0 and 1.5 < largest <= 255:
        return "divide images by 255"
    return "put the normalisation inside the model, advreg.normalized(model, mean, std), or give the threat its box="


class _LastBatch:
    """The last batch that was inside its box, so that a training recipe and its attack check a batch once."""

    def __init__(self) -> None:
        self.batch: weakref.ref[Tensor] | None = None
        self.state: tuple[int, tuple[float, float]] | None = None

    def is_same(self, x: Tensor, box: tuple[float, float]) -> bool:
        """Return whether these are the values and the box of the last call."""
        return self.batch is not None and self.batch() is x and self.state == (x._version, box)

    def remember(self, x: Tensor, box: tuple[float, float]) -> None:
        """Store a weak reference to the batch, and its version."""
        self.batch, self.state = weakref.ref(x), (x._version, box)


_last = _LastBatch()


def into_box_once(x: Tensor, box: tuple[float, float]) -> Tensor:
    """Return a training batch inside the box, as `into_box` does; the tensor that it returned last is not checked again.

    Args:
        x: inputs ``(B, ...)``.
        box: lowest and highest valid value of an input.

    Returns:
        Inputs inside the box.

    Raises:
        DataError: values outside the box.
    """
    if not x.is_inference() and _last.is_same(x, box):  # tensors of inference mode have no version
        return x
    inside = into_box(x, box, read_later)
    if not inside.is_inference():
        _last.remember(inside, box)
    return inside

"""Floating-point data: rows of a table, signals and images that are not 8-bit pixels, with a box of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from advreg.data.dataset import Device
from advreg.data.validation import check_labels
from advreg.errors import DataError

Box = tuple[float, float]
UNIT: Box = (0.0, 1.0)
"""The box of pixels."""

_KINDS = {2: "table", 3: "signal", 4: "image"}


def kind_of(x: Tensor) -> str:
    """Return what inputs are by their axes: ``table (N, F)``, ``signal (N, C, T)``, ``image (N, C, H, W)`` or ``example``."""
    return _KINDS.get(x.ndim, "example")


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """Floats with labels or targets: what `advreg.data.Dataset` is for 8-bit images; immutable, on any device.

    Args:
        values: float32 ``(N, F)`` for rows of a table, ``(N, C, T)`` for signals, ``(N, C, H, W)`` for images; finite.
        labels: int64 ``(N,)``, each in ``[0, len(classes))``; without classes, finite targets ``(N, ...)`` of another task.
        classes: name of each class; empty for targets of another task than classification.
        name: what it is called in results.
        split: ``"train"`` or ``"test"``.
        declared: lowest and highest valid value; None where it is not declared: then values in [0, 1] have the box [0, 1], and
            others need a threat model with a box.
        columns: names of the features; empty where they have none.

    Raises:
        DataError: empty, wrong type or shape, NaN, values outside the declared box, or labels that do not fit.

    Example:
        >>> rows = Table(torch.tensor([[20.0, 1.0], [30.0, 0.0]]), torch.tensor([0, 1]), ("no", "yes"), declared=(0.0, 100.0))
        >>> rows
        <table/test: 2 rows of 2 features, 2 classes, box [0, 100]>
    """

    values: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = "table"
    split: str = "test"
    declared: Box | None = None
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_values(self.values)
        if self.classes:
            check_labels(self.labels, len(self.classes))
        else:
            _check_targets(self.labels)
        if len(self.labels) != len(self.values):
            raise DataError(f"{len(self.values)} rows but {len(self.labels)} labels; each row needs one label")
        if self.declared is not None:
            _check_box(self.declared, self.span)

    @property
    def inputs(self) -> Tensor:
        """The inputs as they are stored."""
        return self.values

    @property
    def kind(self) -> str:
        """What the rows are: ``table``, ``signal``, ``image`` or ``example``."""
        return kind_of(self.values)

    @cached_property
    def span(self) -> Box:
        """Lowest and highest value."""
        low, high = (float(end) for end in torch.aminmax(self.values))
        return low, high

    @property
    def box(self) -> Box:
        """Lowest and highest valid value of an input.

        Raises:
            DataError: it is not declared, and the values leave [0, 1].
        """
        if self.declared is not None:
            return self.declared
        low, high = self.span
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"{self.name}: x spans [{low:.6g}, {high:.6g}] and no box is declared; say ?box={low:.6g},{high:.6g} "
                "(or --box), or scale inside the model"
            )
        return UNIT

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        shape = "x".join(str(n) for n in self.values.shape[1:])
        what = {"table": f"rows of {shape} features", "signal": f"signals of {shape}", "image": f"images of {shape}"}
        box = "" if self.declared is None else f", box [{self.declared[0]:g}, {self.declared[1]:g}]"
        kind = what.get(self.kind, f"examples of {shape}")
        targets = f"targets {('N', *self.labels.shape[1:])}".replace("'", "")
        labels = f"{len(self.classes)} classes" if self.classes else targets
        return f"<{self.name}/{self.split}: {len(self)} {kind}, {labels}{box}>"

    def tensors(self, n: int | None = None, start: int = 0) -> tuple[Tensor, Tensor]:
        """Return values float32 ``(n, ...)`` and labels or targets ``(n, ...)`` of up to ``n`` rows from ``start`` on.

        Raises:
            DataError: nothing lies there.
        """
        if not (0 <= start < len(self) and (n is None or n > 0)):
            raise DataError(f"{self!r} has no {n} rows from {start} on; allowed: start 0..{len(self) - 1}, n >= 1")
        stop = len(self) if n is None else start + n
        return self.values[start:stop], self.labels[start:stop]

    def select(self, indices: Tensor | Sequence[int]) -> Table:
        """Return the data set of these rows, in this order."""
        rows = torch.as_tensor(indices, device=self.values.device)
        return replace(self, values=self.values[rows], labels=self.labels[rows])

    def to(self, device: Device) -> Table:
        """Return the same data set on a device."""
        return replace(self, values=self.values.to(device), labels=self.labels.to(device))

    def fingerprint(self) -> str:
        """Return the SHA-256 of values, their shape and labels, in hexadecimal."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(str(tuple(self.values.shape)).encode())
        for tensor in (self.values, self.labels):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def _check_values(x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        given = str(x.dtype).removeprefix("torch.") if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"values must be a float32 tensor, given {given}; use x.float()")
    if x.dim() < 2 or x.numel() == 0:
        raise DataError(f"values must have shape (N, ...) and not be empty, given {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        row = int((~torch.isfinite(x)).flatten(1).any(1).nonzero()[0, 0])
        raise DataError(f"values hold NaN or infinity, first in row {row}; fill them or leave the rows out")


def _check_targets(y: Tensor) -> None:
    if y.is_complex() or not y.ndim:
        raise DataError(f"targets are {y.dtype} {tuple(y.shape)}; give whole numbers or floats (N, ...)")
    finite = torch.isfinite(y).flatten(1).all(1) if y.ndim > 1 else torch.isfinite(y)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0, 0])
        raise DataError(f"targets hold NaN or infinity, first in row {row}; fill them or leave the rows out")


def _check_box(box: Box, span: Box) -> None:
    low, high = box
    if not low < high:
        raise DataError(f"the box is {low:g},{high:g}; give the lowest and highest valid value, such as box=-3,3")
    if span[0] < low or span[1] > high:
        raise DataError(
            f"x spans [{span[0]:.6g}, {span[1]:.6g}] outside its box [{low:g}, {high:g}]; "
            f"say box={min(low, span[0]):.6g},{max(high, span[1]):.6g}, or remove the rows outside"
        )

"""A data set: one uint8 tensor of images and one int64 tensor of labels, checked when it is made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from advreg.data.validation import check_labels, check_pixels
from advreg.errors import DataError

Device = torch.device | str


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images with labels, immutable, on any device.

    Args:
        images: uint8 ``(N, C, H, W)``, 0 to 255.
        labels: int64 ``(N,)``, each in ``[0, len(classes))``.
        classes: name of each class.
        name: what it is called in results, e.g. ``"mnist"``.
        split: ``"train"`` or ``"test"``.

    Raises:
        DataError: empty, wrong type or shape, unequal lengths, or a label out of range.

    Example:
        >>> black = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
        >>> data = Dataset(black, torch.tensor([0, 1]), ("a", "b"), "toy", "test")
        >>> data
        <toy/test: 2 images of 1x4x4, 2 classes>
        >>> x, y = data.tensors(n=1)
        >>> x.dtype, y
        (torch.float32, tensor([0]))
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = "tensors"
    split: str = "test"

    def __post_init__(self) -> None:
        _check_images(self.images)
        if len(self.labels) != len(self.images):
            raise DataError(f"{len(self.images)} images but {len(self.labels)} labels; each image needs one label")
        check_labels(self.labels, len(self.classes))
        if self.labels.dtype != torch.int64:
            raise DataError(f"labels must be int64, given {self.labels.dtype}; use y.long() or Dataset.from_tensors")

    @classmethod
    def from_tensors(
        cls,
        x: Tensor,
        y: Tensor,
        classes: Sequence[str] | int | None = None,
        name: str = "tensors",
        split: str = "test",
    ) -> Dataset:
        """Make a data set from pixels in [0, 1] or in uint8, and labels of any whole-number type.

        Args:
            x: ``(N, C, H, W)``, uint8, or floating point in [0, 1], which is rounded to the nearest 1/255.
            y: labels ``(N,)``.
            classes: names, or how many; as many as the labels show where not given.
            name: what it is called in results.
            split: which part it is.

        Returns:
            The checked data set.

        Raises:
            DataError: floats outside [0, 1], NaN, or anything else that `Dataset` rejects.

        Example:
            >>> Dataset.from_tensors(torch.rand(3, 1, 8, 8), torch.tensor([0, 2, 1]))
            <tensors/test: 3 images of 1x8x8, 3 classes>
        """
        if isinstance(x, Tensor) and x.is_floating_point():
            check_pixels(x)
            x = (x * 255).round().to(torch.uint8)
        check_labels(y)
        if classes is None:
            classes = int(y.max()) + 1
        names = [str(k) for k in range(classes)] if isinstance(classes, int) else classes
        return cls(x, y.long(), tuple(names), name, split)

    @property
    def inputs(self) -> Tensor:
        """The inputs as they are stored."""
        return self.images

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = "x".join(str(n) for n in self.images.shape[1:])
        return f"<{self.name}/{self.split}: {len(self)} images of {shape}, {len(self.classes)} classes>"

    def tensors(self, n: int | None = None, start: int = 0) -> tuple[Tensor, Tensor]:
        """Return up to ``n`` examples from ``start`` on.

        Returns:
            Pixels float32 in [0, 1] ``(n, C, H, W)`` and labels int64 ``(n,)``.

        Raises:
            DataError: nothing lies there.
        """
        if not (0 <= start < len(self) and (n is None or n > 0)):
            raise DataError(f"{self!r} has no {n} examples from {start} on; allowed: start 0..{len(self) - 1}, n >= 1")
        stop = len(self) if n is None else start + n
        return to_float(self.images[start:stop]), self.labels[start:stop]

    def select(self, indices: Tensor | Sequence[int]) -> Dataset:
        """Return the data set of these rows, in this order."""
        rows = torch.as_tensor(indices, device=self.images.device)
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def to(self, device: Device) -> Dataset:
        """Return the same data set on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def fingerprint(self) -> str:
        """Return the SHA-256 of images, their shape and labels, in hexadecimal."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.labels):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def to_float(images: Tensor) -> Tensor:
    """Return uint8 pixels as float32 in [0, 1].

    Args:
        images: uint8, of any shape.

    Returns:
        float32 of the same shape.
    """
    return images.to(torch.float32) / 255


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise DataError(f"images must be a torch.Tensor, given {type(images).__name__}; use torch.as_tensor")
    if images.dtype != torch.uint8:
        given = str(images.dtype).removeprefix("torch.")
        raise DataError(f"images must be uint8 0-255, given {given}; floats in [0, 1] go through Dataset.from_tensors")
    if images.dim() != 4:
        raise DataError(f"images must have shape (N, C, H, W), given {tuple(images.shape)}; greyscale is C = 1")
    if images.numel() == 0:
        raise DataError(f"images must not be empty, given shape {tuple(images.shape)}")

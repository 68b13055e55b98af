"""Random crops and flips of a whole batch at once; a draw belongs to its example and epoch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg import example_rng
from advreg.errors import DataError, did_you_mean

Augment = Callable[[Tensor, Tensor, int, int], Tensor]  # (images, ids, seed, epoch) -> images

_STREAM = 0xA060000  # far from the streams of attacks, which count from 0


def crop_flip(images: Tensor, ids: Tensor, seed: int, epoch: int, *, pad: int = 4, flip: bool = True) -> Tensor:
    """Shift each image by up to ``pad`` pixels each way (zeros come in) and mirror every second one.

    Args:
        images: ``(B, C, H, W)`` of any type.
        ids: example ids ``(B,)``.
        seed: the run's seed.
        epoch: which pass over the data; each draws anew.
        pad: pixels of zeros around the image before a crop of its own size is taken; 0 for no crop.
        flip: whether to mirror left and right, with chance 1/2.

    Returns:
        Images of the same shape and type.

    Example:
        >>> x = torch.arange(2 * 9).reshape(2, 1, 3, 3)
        >>> crop_flip(x, torch.tensor([0, 1]), seed=0, epoch=0, pad=1).shape
        torch.Size([2, 1, 3, 3])
    """
    count, channels, height, width = images.shape
    draws = example_rng.uniform(ids.to(images.device), (3,), seed, _STREAM + epoch)
    top, left = (draws[:, :2] * (2 * pad + 1)).long().unbind(1)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    if flip:
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    example = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return F.pad(images, (pad,) * 4)[example, channel, rows[:, None, :, None], columns[:, None, None, :]]


_AUGMENTATIONS: dict[str, Augment | None] = {
    "none": None,
    "crop": partial(crop_flip, flip=False),
    "flip": partial(crop_flip, pad=0),
    "crop-flip": crop_flip,
}


def augmentation(name: str) -> Augment | None:
    """Return the augmentation of a name: ``none``, ``crop``, ``flip`` or ``crop-flip``.

    Args:
        name: one of these four.

    Returns:
        The function of images, ids, seed and epoch; None for ``none``.

    Raises:
        DataError: unknown name.

    Example:
        >>> augmentation("none") is None
        True
    """
    if name not in _AUGMENTATIONS:
        near = did_you_mean(name, _AUGMENTATIONS)
        raise DataError(f"unknown augmentation {name!r}.{near} Allowed: {' '.join(_AUGMENTATIONS)}")
    return _AUGMENTATIONS[name]

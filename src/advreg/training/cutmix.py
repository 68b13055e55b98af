"""CutMix: paste a window of another image into each image, and mix the labels by area."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg import example_rng
from advreg.errors import DataError

_STREAM = 0xC070000  # apart from the streams of attacks, which count from 0, and of crops


def cutmix(
    x: Tensor, y: Tensor, ids: Tensor, *, classes: int, seed: int, window: int | None = None
) -> tuple[Tensor, Tensor]:
    """Paste a window of the next image of the batch into each: ``y = (1 - a) onehot(y) + a onehot(y_next)``, ``a`` its area.

    Attack and loss must both get the mixed labels; all recipes take them but `mart`, which raises.

    Args:
        x: images ``(B, C, H, W)``.
        y: labels ``(B,)``.
        ids: example ids ``(B,)``; each window is drawn from its id.
        classes: number of classes, the number of outputs of the network.
        seed: a seed for each epoch or step.
        window: side of the window in pixels (20 of 32 in data augmentation for robustness); by default it covers a uniform
            share of the image. At the border it is cut.

    Returns:
        Mixed images ``(B, C, H, W)`` and labels ``(B, classes)``; the share of the pasted label is the window's area.

    Raises:
        DataError: inputs that are not images, labels that are already mixed, or a window under one pixel.

    Example:
        >>> x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
        >>> mixed, labels = cutmix(x, y, torch.arange(2), classes=3, seed=0)
        >>> labels.sum(1).tolist()
        [1.0, 1.0]

    Reference: Yun et al., "CutMix", ICCV 2019; Rebuffi et al., "Data augmentation can improve robustness", NeurIPS 2021.
    """
    if x.ndim != 4 or y.ndim != 1 or (window is not None and window < 1):
        raise DataError(
            f"cutmix was given x {tuple(x.shape)}, y {tuple(y.shape)}, window {window}; "
            "give images (B, C, H, W), labels (B,) and a window of 1 pixel or more"
        )
    inside = _windows(x, ids, seed, window)
    area = inside.flatten(1).to(x.dtype).mean(1, keepdim=True)
    hot = F.one_hot(y, classes).to(x.dtype)
    return torch.where(inside[:, None], x.roll(-1, 0), x), (1 - area) * hot + area * hot.roll(-1, 0)


def _windows(x: Tensor, ids: Tensor, seed: int, window: int | None) -> Tensor:
    """Return whether each pixel is in the window of its image: ``(B, H, W)``."""
    draws = example_rng.uniform(ids.to(x.device), (3,), seed, _STREAM)
    height, width = x.shape[-2:]
    rows, columns = (_span(draws[:, k], draws[:, 2], size, window) for k, size in enumerate((height, width)))
    return rows[:, :, None] & columns[:, None, :]


def _span(middle: Tensor, share: Tensor, size: int, window: int | None) -> Tensor:
    """Return whether each position along one side is in the window: ``(B, size)``."""
    side = (share.sqrt() * size).round() if window is None else torch.full_like(share, window)
    first = (middle * size).floor() - (side / 2).floor()
    place = torch.arange(size, device=middle.device)
    return (place >= first[:, None]) & (place < (first + side)[:, None])

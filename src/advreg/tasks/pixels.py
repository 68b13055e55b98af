"""Semantic segmentation: a class for every pixel, and the losses that lower pixel accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg.objectives import Objective
from advreg.tasks.task import CorpusFigure, Task

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(logits (B, K, H, W), masks (B, H, W) without ignored pixels, counted (B, H, W)) -> (B,)``."""


def pixels(ignore: int = 255) -> Task:
    """Return the task of semantic segmentation: masks ``(B, H, W)``, logits ``(B, K, H, W)``.

    The score of an image is its share of right pixels; mIoU is summed over the images at their worst points, which is not the
    lowest mIoU that the attacks reach. The objectives are those of SEA: cross-entropy of the pixels that are still right,
    cross-entropy balanced between right and wrong pixels (SegPGD), the Jensen-Shannon divergence to the label, and the cosine
    of the logits with the label. Each climbs its own gradient, and the plain cross-entropy decides on the step size.

    Args:
        ignore: class of pixels that do not count.

    Returns:
        The task.

    Example:
        >>> z, y = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 1, 255]]])
        >>> round(pixels().rate(z, y).item(), 3)
        0.667

    Reference: Croce, Singh, Hein, "Towards reliable evaluation and fast training of robust semantic segmentation models", ECCV
    2024, arXiv:2306.12941; Gu et al., "SegPGD", ECCV 2022, arXiv:2207.12391, for the balanced loss.
    """

    def objective(loss: Loss) -> Objective:
        def climb(z: Tensor, y: Tensor) -> Tensor:
            labels, counted = _without_ignored(y, ignore)
            value, climbed = cross_entropy(z, labels, counted), loss(z, labels, counted)
            return value.detach() + climbed - climbed.detach()

        return climb

    def score(z: Tensor, y: Tensor) -> Tensor:
        labels, counted = _without_ignored(y, ignore)
        return mean_of((z.argmax(1) == labels).to(z.dtype), counted)

    def plain(z: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(z, *_without_ignored(y, ignore))

    return Task(
        "pixels" if ignore == 255 else f"pixels-ignore{ignore}".replace("-1", "m1"),
        score,
        {
            "masked-ce": objective(masked_cross_entropy),
            "balanced-ce": _Balanced(objective),
            "js": objective(jensen_shannon),
            "cosine": objective(masked_cosine),
        },
        near=lambda z, y: -mean_of(_probability(z, _without_ignored(y, ignore)[0]), _without_ignored(y, ignore)[1]),
        loss=plain,
        divergence=_divergence,
        fits=lambda z, y: _fits(z, y, ignore),
        corpus={"miou": CorpusFigure(lambda z, y: _overlaps(z, y, ignore), mean_iou)},
    )


def mean_of(values: Tensor, counted: Tensor) -> Tensor:
    """Return the mean over the counted pixels of each image ``(B,)``.

    Args:
        values: a value for each pixel ``(B, H, W)``.
        counted: which pixels count ``(B, H, W)``.

    Returns:
        Means ``(B,)``.
    """
    return (values * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp_min(1)


def cross_entropy(z: Tensor, y: Tensor, counted: Tensor) -> Tensor:
    """Return the mean cross-entropy of the counted pixels ``(B,)``."""
    return mean_of(F.cross_entropy(z, y, reduction="none"), counted)


def masked_cross_entropy(z: Tensor, y: Tensor, counted: Tensor) -> Tensor:
    """Return the cross-entropy of the counted pixels that are still right, divided by all counted pixels, ``(B,)``."""
    return mean_of(F.cross_entropy(z, y, reduction="none") * (z.argmax(1) == y), counted)


def balanced_cross_entropy(z: Tensor, y: Tensor, counted: Tensor, share: float) -> Tensor:
    """Return the cross-entropy with weight ``1 - share`` on right pixels and ``share`` on wrong ones ``(B,)``.

    Args:
        z: logits ``(B, K, H, W)``.
        y: masks ``(B, H, W)``.
        counted: which pixels count ``(B, H, W)``.
        share: weight of wrong pixels, in [0, 1].

    Returns:
        Values ``(B,)``.
    """
    weight = torch.where(z.argmax(1) == y, 1 - share, share)
    return mean_of(F.cross_entropy(z, y, reduction="none") * weight, counted)


def jensen_shannon(z: Tensor, y: Tensor, counted: Tensor) -> Tensor:
    """Return the mean Jensen-Shannon divergence of the prediction from the label, ``(B,)``: at most log 2 for each pixel."""
    p = _probability(z, y).clamp_min(1e-12)
    return mean_of((2 * math.log(2) - (1 + p) * (1 + p).log() + p * p.log()) / 2, counted)


def masked_cosine(z: Tensor, y: Tensor, counted: Tensor) -> Tensor:
    """Return ``-z_y / ||z||`` of the counted pixels that are still right, divided by all counted pixels, ``(B,)``."""
    cosine = z.gather(1, y[:, None])[:, 0] / z.norm(dim=1).clamp_min(1e-12)
    return mean_of(-cosine * (z.argmax(1) == y), counted)


class _Balanced:
    """The balanced cross-entropy; its weight of wrong pixels rises from 0 to a half along the attempt."""

    def __init__(self, objective: Callable[[Loss], Objective], share: float = 0.25) -> None:
        self._objective = objective
        self._climb = objective(lambda z, y, counted: balanced_cross_entropy(z, y, counted, share))

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        return self._climb(z, y)

    def at(self, share: float) -> _Balanced:
        """Return the objective at this share of the steps."""
        return _Balanced(self._objective, share / 2)


def _without_ignored(y: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """Return the masks with a valid class at ignored pixels, and which pixels count."""
    counted = y != ignore
    return torch.where(counted, y, 0), counted


def _probability(z: Tensor, y: Tensor) -> Tensor:
    """Return the probability of each pixel's label ``(B, H, W)``."""
    return z.softmax(1).gather(1, y[:, None])[:, 0]


def _divergence(z: Tensor, clean: Tensor) -> Tensor:
    log_p, log_q = clean.log_softmax(1), z.log_softmax(1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1).flatten(1).mean(1)


def _overlaps(z: Tensor, y: Tensor, ignore: int) -> Tensor:
    """Return pixels in the intersection and in the union of prediction and label for each class, ``(B, 2 K)``."""
    labels, counted = _without_ignored(y, ignore)
    guess, classes = z.argmax(1), torch.arange(z.shape[1], device=z.device)[:, None, None, None]
    ours, theirs = ((part == classes) & counted for part in (guess, labels))
    both, either = (part.flatten(2).sum(2).T for part in (ours & theirs, ours | theirs))
    return torch.cat([both, either], 1)


def mean_iou(rows: Any) -> float:
    """Return the mean over classes of intersection over union, each summed over the images; absent classes do not count.

    Args:
        rows: ``(N, 2 K)``: intersections, then unions, of each image.

    Returns:
        The mean IoU.

    Example:
        >>> mean_iou(torch.tensor([[1, 2, 2, 4], [1, 0, 2, 0]]))
        0.5
    """
    both, either = (part.sum(0) for part in torch.as_tensor(rows, dtype=torch.float64).chunk(2, 1))
    seen = either > 0
    return float((both[seen] / either[seen]).mean()) if bool(seen.any()) else 0.0


def _fits(z: Tensor, y: Tensor, ignore: int) -> str:
    if z.ndim != 4 or y.ndim != 3 or z.shape[2:] != y.shape[1:] or z.shape[1] < 2:
        return (
            f"outputs are {tuple(z.shape)}, masks are {tuple(y.shape)}; give logits (B, K, H, W) and classes (B, H, W)"
        )
    if y.is_floating_point():
        return f"masks are {y.dtype}; give whole class numbers"
    counted = y != ignore
    wrong = (counted & ((y < 0) | (y >= z.shape[1]))).nonzero()
    if len(wrong):
        found = int(y[tuple(wrong[0])])
        return f"a pixel has class {found}; the model has 0 to {z.shape[1] - 1}: ignore={found} leaves its pixels out"
    if not bool(counted.flatten(1).any(1).all()):
        return f"an image has no pixel but those of class {ignore}, which are ignored; leave it out"
    return ""

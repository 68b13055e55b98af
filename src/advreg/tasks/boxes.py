"""Object detection: boxes with classes, right by F1 at an overlap of one half."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg.errors import ConfigError
from advreg.tasks.task import CorpusFigure, Task


def boxes(overlap: float = 0.5, confidence: float = 0.5) -> Task:
    """Return the task of detection: targets ``(B, M, 5)``, outputs ``(B, Q, 5 + K)``.

    A target is x1, y1, x2, y2 and its class, -1 for padding. An output is x1, y1, x2, y2, the logit of its confidence and the
    logits of its K classes; duplicates count as errors, so non-maximum suppression belongs to the model. The score of an image
    is F1: predictions and targets are matched in order of confidence, by class and overlap; 1 where both are empty.

    Args:
        overlap: least intersection over union of a match, in (0, 1].
        confidence: least confidence of a prediction, in (0, 1).

    Returns:
        The task, with the objectives ``own`` (the training loss), ``vanish`` and ``fabricate``.

    Raises:
        ConfigError: an overlap or a confidence outside its range.

    Example:
        >>> y = torch.tensor([[[0.0, 0.0, 2.0, 2.0, 0.0]]])
        >>> z = torch.tensor([[[0.0, 0.0, 2.0, 2.0, 3.0, 1.0, 0.0], [4.0, 4.0, 6.0, 6.0, 3.0, 1.0, 0.0]]])
        >>> round(boxes().rate(z, y).item(), 3)  # one match of two predictions and one target
        0.667
    """
    if not 0 < overlap <= 1 or not 0 < confidence < 1:
        raise ConfigError(f"task boxes: overlap is {overlap}, confidence is {confidence}; give (0, 1] and (0, 1)")
    cut = torch.logit(torch.tensor(confidence, dtype=torch.float64)).item()

    def score(z: Tensor, y: Tensor) -> Tensor:
        hits = matches(z, y, overlap, cut).sum(1)
        total = (z[..., 4] >= cut).sum(1) + (y[..., 4] >= 0).sum(1)
        return torch.where(total > 0, 2 * hits.to(z.dtype) / total.clamp_min(1), 1.0)

    return Task(
        "boxes" if (overlap, confidence) == (0.5, 0.5) else f"boxes-iou{overlap:g}-conf{confidence:g}",
        score,
        {"own": detection_loss, "vanish": lambda z, y: -_confidence(z), "fabricate": lambda z, y: _emptiness(z)},
        fits=_fits,
        corpus={"ap": CorpusFigure(lambda z, y: _rows(z, y, overlap), average_precision)},
    )


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Return intersection over union of every pair of boxes.

    Args:
        a: boxes ``(..., Q, 4)``: x1, y1, x2, y2.
        b: boxes ``(..., M, 4)``.

    Returns:
        Overlaps ``(..., Q, M)``; 0 for boxes without area.

    Example:
        >>> iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]])).item()
        0.3333333432674408
    """
    p, q = a[..., :, None, :], b[..., None, :, :]
    sides = (torch.minimum(p[..., 2:4], q[..., 2:4]) - torch.maximum(p[..., :2], q[..., :2])).clamp_min(0)
    areas: list[Tensor] = [(box[..., 2:4] - box[..., :2]).clamp_min(0).prod(-1) for box in (p, q)]
    both = sides.prod(-1)
    overlap: Tensor = both / (areas[0] + areas[1] - both).clamp_min(1e-9)
    return overlap


def matches(z: Tensor, y: Tensor, overlap: float, cut: float) -> Tensor:
    """Return which predictions match a target of their class, in order of confidence; each target matches once.

    Args:
        z: outputs ``(B, Q, 5 + K)``.
        y: targets ``(B, M, 5)``.
        overlap: least intersection over union.
        cut: least logit of the confidence.

    Returns:
        Booleans ``(B, Q)``.
    """
    wide = iou(z[..., :4], y[..., :4])
    allowed = (z[..., 5:].argmax(-1)[:, :, None] == y[:, None, :, 4]) & (wide >= overlap) & (z[..., 4:5] >= cut)
    wide = wide.masked_fill(~allowed, -1.0)
    found = torch.zeros(z.shape[:2], dtype=torch.bool, device=z.device)
    rows = torch.arange(len(z), device=z.device)
    for query in z[..., 4].argsort(1, descending=True).T:
        best, target = wide[rows, query].max(1)
        hit = best >= 0
        found[rows, query] = hit
        taken = torch.zeros_like(wide[:, 0], dtype=torch.bool).scatter(1, target[:, None], hit[:, None])
        wide = wide.masked_fill(taken[:, None], -1.0)
    return found


def detection_loss(z: Tensor, y: Tensor) -> Tensor:
    """Return the loss of each image ``(B,)``: the nearest output of every target should be confident, right and in place.

    The nearest output has the smallest distance of the four sides; all other outputs should not be confident.

    Args:
        z: outputs ``(B, Q, 5 + K)``.
        y: targets ``(B, M, 5)``.

    Returns:
        Values ``(B,)``: confidence by cross-entropy over the outputs, and for each target, sides (in shares of the diagonal of
        the target) and class.
    """
    real = y[..., 4] >= 0
    with torch.no_grad():
        distance = (z[:, :, None, :4] - y[:, None, :, :4]).abs().sum(-1)
        nearest = distance.argmin(1)  # (B, M)
        marks = torch.zeros_like(z[..., 4]).scatter_add(1, nearest, real.to(z.dtype)).clamp_max(1.0)
    chosen = z.gather(1, nearest[..., None].expand(-1, -1, z.shape[2]))
    size: Tensor = (y[..., 2:4] - y[..., :2]).norm(dim=-1).clamp_min(1e-6)
    sides = (chosen[..., :4] - y[..., :4]).abs().mean(-1) / size
    kind = F.cross_entropy(chosen[..., 5:].transpose(1, 2), y[..., 4].long().clamp_min(0), reduction="none")
    count = real.sum(1).clamp_min(1)
    confident = F.binary_cross_entropy_with_logits(z[..., 4], marks, reduction="none").sum(1) / count
    placed: Tensor = ((4 * sides + kind) * real).sum(1) / count
    return confident + placed


def _confidence(z: Tensor) -> Tensor:
    """Return the mean of ``softplus(logit)`` of the confidences: near 0 where no output is confident."""
    return F.softplus(z[..., 4]).mean(1)


def _emptiness(z: Tensor) -> Tensor:
    return -F.softplus(-z[..., 4]).mean(1)


def _rows(z: Tensor, y: Tensor, overlap: float) -> Tensor:
    """Return confidences and matches of the outputs, and the number of targets, of each image, ``(B, 2 Q + 1)``."""
    hits = matches(z, y, overlap, -torch.inf)
    return torch.cat([z[..., 4].double(), hits.double(), (y[..., 4] >= 0).sum(1, keepdim=True).double()], 1)


def average_precision(rows: Any) -> float:
    """Return the area under precision over recall of all predictions, classes together, with precision made monotone.

    Args:
        rows: ``(N, 2 Q + 1)``: confidences, matches and the number of targets of each image.

    Returns:
        The average precision; 1 where there is no target.

    Example:
        >>> average_precision([[2.0, 1.0, 1.0, 0.0, 1.0]])  # the more confident of two outputs matches the target
        1.0
    """
    table = torch.as_tensor(rows, dtype=torch.float64)
    outputs, targets = table[:, :-1], float(table[:, -1].sum())
    confidence, hits = (part.flatten() for part in outputs.chunk(2, 1))
    if not targets:
        return 1.0
    ordered = hits[confidence.argsort(descending=True, stable=True)].cumsum(0)
    precision = ordered / torch.arange(1, len(ordered) + 1)
    monotone = precision.flip(0).cummax(0).values.flip(0)
    gained = torch.diff(ordered / targets, prepend=torch.zeros(1, dtype=torch.float64))
    return float((monotone * gained).sum())


def _fits(z: Tensor, y: Tensor) -> str:
    if z.ndim != 3 or y.ndim != 3 or y.shape[2] != 5 or z.shape[2] < 6:
        return f"outputs are {tuple(z.shape)}, y is {tuple(y.shape)}; give (B, Q, 5 + classes) and (B, M, 5)"
    highest = int(y[..., 4].max()) if y.shape[1] else -1
    if highest >= z.shape[2] - 5:
        return f"a box has class {highest}; the model has 0 to {z.shape[2] - 6}"
    real = y[y[..., 4] >= 0]
    if bool((real[:, 2:4] <= real[:, :2]).any()):
        return "a box has no area; give x1, y1, x2, y2 with x1 < x2 and y1 < y2"
    return ""

"""Several labels for each example: which of L properties hold, each with its own logit."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from advreg.errors import ConfigError
from advreg.tasks.task import Task


def labels(score: Literal["all", "share"] = "all", threshold: float = 0.5) -> Task:
    """Return the task of several labels: targets ``(B, L)`` of 0 and 1, one logit for each, ``(B, L)``.

    A label is predicted where ``sigmoid(logit) > threshold``.

    Args:
        score: ``"all"``: an example is right where all its labels are; ``"share"``: the share of its labels that are right.
        threshold: probability above which a label is predicted, in (0, 1).

    Returns:
        The task, with the objectives ``nearest`` (the label nearest to its threshold) and ``bce`` (the mean over labels).

    Raises:
        ConfigError: another score, or a threshold outside (0, 1).

    Example:
        >>> import torch
        >>> z, y = torch.tensor([[2.0, -1.0, 3.0]]), torch.tensor([[1, 0, 0]])
        >>> labels().rate(z, y).item(), round(labels("share").rate(z, y).item(), 3)
        (False, 0.667)
    """
    if score not in ("all", "share"):
        raise ConfigError(f"task labels: score is {score!r}; allowed: 'all' (every label right) or 'share'")
    if not 0 < threshold < 1:
        raise ConfigError(f"task labels: threshold is {threshold}; give a probability above 0 and below 1")
    cut = math.log(threshold / (1 - threshold))

    def nearest(z: Tensor, y: Tensor) -> Tensor:
        return -((2 * y - 1) * (z - cut)).amin(1)

    def right(z: Tensor, y: Tensor) -> Tensor:
        return (z > cut) == (y > 0.5)

    name = "labels" + ("" if score == "all" else "-share") + ("" if threshold == 0.5 else f"-t{threshold:g}")
    if score == "all":
        objectives = {"nearest": nearest, "bce": bce}
        return Task(
            name, lambda z, y: right(z, y).all(1), objectives, near=nearest, loss=bce, divergence=kl_of, fits=fits
        )
    objectives = {"bce": bce, "nearest": nearest}
    return Task(name, lambda z, y: right(z, y).double().mean(1), objectives, divergence=kl_of, fits=fits)


def bce(z: Tensor, y: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of an example's labels ``(B,)``.

    Args:
        z: logits ``(B, L)``.
        y: labels ``(B, L)``, 0 or 1.

    Returns:
        Values ``(B,)``.
    """
    return F.binary_cross_entropy_with_logits(z, y.to(z.dtype), reduction="none").mean(1)


def kl_of(z: Tensor, clean: Tensor) -> Tensor:
    """Return ``KL(sigmoid(clean) || sigmoid(z))``, the mean over labels, ``(B,)``.

    Args:
        z: logits ``(B, L)``.
        clean: logits of the clean inputs ``(B, L)``.

    Returns:
        Values ``(B,)``.
    """
    p = clean.sigmoid()
    return (p * (F.logsigmoid(clean) - F.logsigmoid(z)) + (1 - p) * (F.logsigmoid(-clean) - F.logsigmoid(-z))).mean(1)


def fits(z: Tensor, y: Tensor) -> str:
    """Return why logits ``(B, L)`` and labels ``(N, L)`` do not fit each other; empty text where they do."""
    if y.ndim != 2 or z.ndim != 2 or z.shape[1] != y.shape[1]:
        return f"outputs are {tuple(z.shape)}, y is {tuple(y.shape)}; give a logit and a 0 or 1 for each label: (B, L) both"
    if bool(((y != 0) & (y != 1)).any()):
        return f"y spans [{float(y.min()):g}, {float(y.max()):g}]; give 0 or 1 for each label"
    return ""

"""Small networks for rows of a table and for signals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(features: int, classes: int = 2, widths: Sequence[int] = (64, 64)) -> nn.Module:
    """Return a fully connected ReLU network; with ``mean`` and ``std`` of the training rows, it scales its input.

    Args:
        features: number of features of a row.
        classes: number of logits.
        widths: sizes of the hidden layers.

    Returns:
        The network, in train mode; rows ``(B, F)`` to logits ``(B, K)``.

    Example:
        >>> import torch
        >>> mlp(9, classes=3)(torch.zeros(2, 9)).shape
        torch.Size([2, 3])
    """
    sizes = [features, *widths]
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))


def signal_cnn(channels: int = 1, classes: int = 2, width: int = 32) -> nn.Module:
    """Return three convolutions in time (5 samples, stride 2) and the mean over time, for signals of any length.

    Args:
        channels: number of channels of the signal.
        classes: number of logits.
        width: channels of the first convolution, half of those of the others.

    Returns:
        The network, in train mode; signals ``(B, C, T)`` to logits ``(B, K)``.

    Example:
        >>> import torch
        >>> signal_cnn(6, classes=4)(torch.zeros(2, 6, 100)).shape
        torch.Size([2, 4])
    """
    sizes = [channels, width, 2 * width, 2 * width]
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Conv1d(a, b, 5, stride=2, padding=2), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(sizes[-1], classes))

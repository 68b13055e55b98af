"""Normalisation as a layer: eps stays in units of pixels, and no caller can forget it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from advreg.errors import ModelError


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, channel by channel: ``(x - mean) / std``.

    Args:
        mean: one number a channel, in units of pixels in [0, 1].
        std: one positive number a channel.

    Raises:
        ModelError: unequal lengths, or a standard deviation that is not positive.

    Example:
        >>> Normalize([0.5], [0.25])(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std, default=0.0) <= 0:
            raise ModelError(f"mean {list(mean)} and std {list(std)} must be as long as each other, and std positive")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised images ``(B, C, H, W)``."""
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """Return the numbers, for ``repr``."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


class Normalized(nn.Module):
    """A network that expects normalised images, made to take pixels in [0, 1]."""

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        logits: Tensor = self.net(self.normalize(x))
        return logits

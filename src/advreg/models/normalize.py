"""Normalisation as a layer of the model, so that eps is in units of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from advreg.errors import ModelError

Numbers = float | Sequence[float] | Tensor
"""One number, or one for each channel."""


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, channel by channel: ``(x - mean) / std``.

    Args:
        mean: one number a channel (or one for all), in units of the input, such as pixels in [0, 1].
        std: one positive number a channel (or one for all).

    Raises:
        ModelError: unequal lengths, numbers that are not finite, or a standard deviation that is not positive; when called,
            inputs of another number of channels.

    Example:
        >>> Normalize([0.5], [0.25])(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Numbers, std: Numbers) -> None:
        super().__init__()
        means, stds = (torch.as_tensor(numbers, dtype=torch.float32).flatten() for numbers in (mean, std))
        given = f"mean {means.tolist()} and std {stds.tolist()}"
        if len(means) != len(stds) or not len(stds) or not bool((stds > 0).all()):
            raise ModelError(f"{given} must be as long as each other, and std positive")
        if not bool(torch.isfinite(torch.cat([means, stds])).all()):
            raise ModelError(f"{given} must be finite numbers")
        self.register_buffer("mean", means.view(-1, 1, 1))
        self.register_buffer("std", stds.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised inputs ``(B, C, ...)``, in their type.

        Raises:
            ModelError: inputs of another number of channels.
        """
        channels = len(self.mean)
        if channels not in (1, x.shape[1]):
            raise ModelError(
                f"inputs {tuple(x.shape)} have {x.shape[1]} channels, mean and std have {channels} numbers"
            )
        shape = (channels, *[1] * (x.ndim - 2))
        return ((x - self.mean.view(shape)) / self.std.view(shape)).to(x.dtype)

    def extra_repr(self) -> str:
        """Return the numbers, for ``repr``."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


class Normalized(nn.Module):
    """A network with the normalisation of its inputs; see `normalized`."""

    def __init__(self, net: nn.Module, mean: Numbers, std: Numbers) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        logits: Tensor = self.net(self.normalize(x))
        return logits


def normalized(model: nn.Module, mean: Numbers, std: Numbers) -> nn.Module:
    """Return a model that normalises its input itself: ``x -> model((x - mean) / std)``.

    Attacks then work on the raw inputs: eps is in their units, and the box [0, 1] is the one of pixels. The network is shared,
    not copied: training the result trains ``model``; its weights are under ``net``.

    Args:
        model: a network that expects normalised inputs ``(B, C, ...)``; its mode and its device are kept.
        mean: mean to subtract, one number a channel or one for all, as a list, a tuple or a tensor of any shape.
        std: standard deviation to divide by, positive, of the same length.

    Returns:
        A module from raw inputs to logits ``(B, K)``.

    Raises:
        ModelError: no module, unequal lengths, or a standard deviation that is not positive; when called, inputs of another
            number of channels.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
        >>> mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        >>> model, x = normalized(net, mean, std), torch.rand(2, 3, 2, 2)
        >>> shape = (3, 1, 1)
        >>> torch.equal(model(x), net((x - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)))
        True
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}; it must be a torch.nn.Module")
    wrapped = Normalized(model, mean, std)
    for part in (wrapped, wrapped.normalize):  # modules inside the network keep their modes
        part.training = model.training
    weight = next(model.parameters(), None)
    if weight is not None:
        wrapped.normalize.to(weight.device)
    return wrapped

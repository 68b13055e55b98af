"""Normalisation as a layer of the model, so that eps is in units of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advreg.errors import ModelError
from advreg.models.logits import wrap_logits
from advreg.models.preprocessing import own_statistics, statistics_of

Numbers = float | Sequence[float] | Tensor
"""One number, or one for each channel."""


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation: ``(x - mean) / std``.

    Args:
        mean: one number a channel or feature, one for all, or one for each value of an input, in units of the input, such as
            pixels in [0, 1].
        std: as many positive numbers.
        axis: the axis of a batch along which the numbers run.

    Raises:
        ModelError: unequal lengths, numbers that are not finite, or a standard deviation that is not positive; when called,
            inputs of another number of channels.

    Example:
        >>> Normalize([0.5], [0.25])(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Numbers, std: Numbers, axis: int = 1) -> None:
        super().__init__()
        self.axis = axis
        means, stds = (_numbers(numbers) for numbers in (mean, std))
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
        shape = self._shape(x)
        return ((x - self.mean.view(shape)) / self.std.view(shape)).to(x.dtype)

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape in which the numbers broadcast over an input."""
        numbers, size = len(self.mean), x.shape[self.axis]
        if numbers in (1, size):
            shape = [1] * x.ndim
            shape[self.axis] = numbers
            return tuple(shape[1:])
        if numbers == x[0].numel():
            return tuple(x.shape[1:])
        raise ModelError(f"inputs {tuple(x.shape)} have {size} channels, mean and std have {numbers} numbers")

    def extra_repr(self) -> str:
        """Return the numbers, for ``repr``."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def _numbers(values: Numbers) -> Tensor:
    """Return the numbers on their own device, or the CPU: also where a network is built without memory."""
    device = values.device if isinstance(values, Tensor) else "cpu"
    return torch.as_tensor(values, dtype=torch.float32, device=device).flatten()


class Normalized(nn.Module):
    """A network with the normalisation of its inputs; see `normalized`."""

    def __init__(self, net: nn.Module, mean: Numbers, std: Numbers, axis: int = 1) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std, axis)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        logits: Tensor = self.net(self.normalize(x))
        return logits


class Preceded(nn.Module):
    """A network behind a module that prepares its inputs; see `normalized`."""

    def __init__(self, net: nn.Module, before: nn.Module) -> None:
        super().__init__()
        self.before = before
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        logits: Tensor = self.net(self.before(x))
        return logits


def normalized(
    model: nn.Module,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    *,
    before: Any = None,
    preprocessing: Any = None,
) -> nn.Module:
    """Return a model that prepares its input itself: ``x -> model((x - mean) / std)``.

    Attacks then work on the raw inputs: eps is in their units, and the box [0, 1] is the one of pixels. The network is shared,
    not copied: training the result trains ``model``; its weights are under ``net``. With the model alone, the configuration
    that a network of timm or transformers carries is used.

    Args:
        model: a network that expects prepared inputs ``(B, C, ...)`` or ``(B, F)``; its mode and its device are kept.
        mean: mean to subtract, one number a channel or feature, one for all, or one for each value of an input.
        std: standard deviation to divide by, positive, as many numbers.
        before: a module that prepares the inputs, or a fitted scaler of sklearn.
        preprocessing: mean and standard deviation as another library states them: Foolbox's
            ``dict(mean=..., std=..., axis=-3)``, a pair as in ART, ``weights.transforms()`` of torchvision, timm's data
            configuration, or an image processor of transformers. Resizing stays outside: it changes what eps is about.

    Returns:
        A module from raw inputs to logits ``(B, K)``.

    Raises:
        ModelError: no module, unequal lengths, a standard deviation that is not positive, more than one preparation, or none;
            when called, inputs of another number of channels.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
        >>> mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        >>> model, x = normalized(net, mean, std), torch.rand(2, 3, 2, 2)
        >>> shape = (3, 1, 1)
        >>> torch.equal(model(x), net((x - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)))
        True
        >>> torch.equal(model(x), normalized(net, preprocessing=dict(mean=mean, std=std, axis=-3))(x))
        True
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}; it must be a torch.nn.Module")
    if sum(given is not None for given in (mean if std is None else std, before, preprocessing)) > 1:
        raise ModelError("the model is prepared twice; give one of mean and std, before= and preprocessing=")
    if isinstance(before, nn.Module):
        return _as_model(Preceded(model, before), model)
    if (mean is None) != (std is None):
        raise ModelError("mean and std go together; give both, or preprocessing=")
    if mean is not None and std is not None:
        return _as_model(Normalized(model, mean, std), model)
    source = before if before is not None else preprocessing
    found = own_statistics(model) if source is None else statistics_of(source)
    net = wrap_logits(model) if hasattr(model, "config") else model
    return _as_model(Normalized(net, found.mean, found.std, found.axis), model)


def _as_model(whole: nn.Module, model: nn.Module) -> nn.Module:
    """Return the whole in the mode and on the device of the model inside; modules inside keep their modes."""
    for part in (whole, *(each for each in whole.children() if isinstance(each, Normalize))):
        part.training = model.training
    weight = next(model.parameters(), None)
    if weight is not None:
        for name, part in whole.named_children():
            if name != "net":
                part.to(weight.device)
    return whole

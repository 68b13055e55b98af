"""The networks that ``zoo:NAME`` knows."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from advreg.errors import ModelError, did_you_mean
from advreg.models.features import mlp, signal_cnn
from advreg.models.normalize import Normalized
from advreg.models.resnet import preact_resnet18, wide_resnet
from advreg.models.small import MnistTrades, mnist_cnn, mnist_dnn, mnist_small

_ZOO: dict[str, Callable[..., nn.Module]] = {
    "mnist-cnn": mnist_cnn,
    "mnist-dnn": mnist_dnn,
    "mnist-small": mnist_small,
    "mnist-trades": MnistTrades,
    "preact-resnet18": preact_resnet18,
    "signal-cnn": signal_cnn,
    "mlp": mlp,
}
_WIDE = re.compile(r"wide-resnet-(\d{1,4})-(\d{1,4})")
NAMES = (*_ZOO, "wide-resnet-28-10")


def build(name: str, **options: Any) -> nn.Module:
    """Return a network of the zoo, with random weights.

    Args:
        name: such as ``mnist-cnn`` or ``wide-resnet-28-10`` (any depth and width).
        options: ``classes``, ``channels`` and whatever else the network takes; with ``mean`` and ``std``, one
            number a channel, it normalises its input.

    Returns:
        The network, in train mode.

    Raises:
        ModelError: unknown name or option.
    """
    mean, std = options.pop("mean", None), options.pop("std", None)
    if (mean is None) != (std is None):
        raise ModelError(f"zoo:{name}: mean and std go together; give both or neither")
    builder = _builder(name)
    _check_options(name, builder, options)
    try:
        net = builder(**options)
    except (TypeError, ValueError, RuntimeError) as cause:
        if isinstance(cause, ModelError):
            raise
        raise ModelError(f"zoo:{name} cannot be built with {options}: {cause}") from cause
    return net if mean is None else Normalized(net, mean, std)


def _builder(name: str) -> Callable[..., nn.Module]:
    if wide := _WIDE.fullmatch(name):
        return partial(wide_resnet, int(wide[1]), int(wide[2]))
    if name not in _ZOO:
        near = did_you_mean(name, NAMES)
        raise ModelError(f"unknown network 'zoo:{name}'.{near} Allowed: {' '.join(NAMES)} (any depth and width)")
    return _ZOO[name]


def _check_options(name: str, builder: Callable[..., nn.Module], options: dict[str, Any]) -> None:
    allowed = [*inspect.signature(builder).parameters, "mean", "std"]
    for key in options:
        if key not in allowed:
            near = did_you_mean(key, allowed)
            raise ModelError(f"zoo:{name} has no option {key!r}.{near} Allowed: {' '.join(allowed)}")

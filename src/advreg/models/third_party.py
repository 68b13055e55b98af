"""Pretrained networks of other libraries, with their normalisation put inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from advreg.errors import ModelError, did_you_mean
from advreg.models.logits import wrap_logits
from advreg.models.normalize import Normalized
from advreg.models.preprocessing import own_statistics
from advreg.plugins import call_factory, first_line, import_extra

_EXTRA = "advreg[vision]"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def timm(name: str, *, pretrained: bool = True, **options: Any) -> nn.Module:
    """Return a network of timm, such as ``resnet50.a1_in1k``, that takes pixels in [0, 1].

    Args:
        name: name of the network, with its tag of pretrained weights.
        pretrained: whether to load the pretrained weights.
        options: options of the network itself.

    Returns:
        The network behind its normalisation.

    Raises:
        ModelError: an unknown name, or a network that cannot be made.
        MissingExtraError: timm is not installed.
    """
    library = import_extra("timm", _EXTRA)
    if not library.is_model(name.partition(".")[0]):
        raise ModelError(f"timm has no model {name!r}.{did_you_mean(name, library.list_models())}")
    net = _made(f"timm:{name}", lambda: library.create_model(name, pretrained=pretrained, **options))
    found = own_statistics(net)
    return Normalized(net, found.mean, found.std)


def torchvision(name: str, *, pretrained: bool | str = True, **options: Any) -> nn.Module:
    """Return a network of torchvision that takes pixels in [0, 1].

    Args:
        name: such as ``resnet50``.
        pretrained: True for its newest weights, or a name such as ``IMAGENET1K_V1``; False for random ones.
        options: options of the network itself.

    Returns:
        The network behind its normalisation.

    Raises:
        ModelError: an unknown name, or a network that cannot be made.
        MissingExtraError: torchvision is not installed.
    """
    library = import_extra("torchvision.models", _EXTRA)
    if name not in library.list_models():
        raise ModelError(f"torchvision has no model {name!r}.{did_you_mean(name, library.list_models())}")
    variant = {True: "DEFAULT", False: None}.get(pretrained, pretrained)  # type: ignore[arg-type]
    net = _made(f"torchvision:{name}", lambda: library.get_model(name, weights=variant, **options))
    return Normalized(net, *_IMAGENET)


def factory(name: str, **options: Any) -> nn.Module:
    """Return the network that ``pkg.module:factory`` builds with the options; it returns logits alone.

    Args:
        name: ``pkg.module:factory``.
        options: keyword arguments of the factory.

    Returns:
        The network.

    Raises:
        ModelError: the factory fails, or returns no module.
    """
    return wrap_logits(_module(name, call_factory(name, ModelError, **options)))


def _made(name: str, make: Callable[[], object]) -> nn.Module:
    try:
        return _module(name, make())
    except Exception as cause:
        raise ModelError(f"{name} cannot be built: {first_line(cause)}") from cause


def _module(name: str, made: object) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise ModelError(f"{name} returned {type(made).__name__}; it must return a torch.nn.Module")
    return made

"""Mean and standard deviation of preprocessing, as Foolbox, ART, torchvision, timm, transformers and sklearn state them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advreg.documents import parse_json
from advreg.errors import ModelError

_NAMES = (("mean", "std"), ("image_mean", "image_std"), ("mean_", "scale_"), ("center_", "scale_"))
"""Names of mean and standard deviation: torchvision's transforms and timm, transformers' processors, sklearn's scalers."""
_PIXEL = 1 / 255
"""The factor by which transformers' processors turn bytes into the units in which mean and std count."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a normalisation ``(x - mean) / std`` subtracts and divides by, and along which axis of a batch."""

    mean: Tensor
    std: Tensor
    axis: int = 1


def statistics_of(source: Any) -> Statistics:
    """Return mean and standard deviation of a preprocessing, in the units of the model's input.

    Args:
        source: Foolbox's ``dict(mean=..., std=..., axis=-3)``, timm's data configuration, a pair ``(mean, std)`` as in ART,
            torchvision's ``weights.transforms()``, an image processor of transformers, or a fitted scaler of sklearn.

    Returns:
        The statistics.

    Raises:
        ModelError: none of these.

    Example:
        >>> statistics_of({"mean": [0.5], "std": [0.25], "axis": -3}).std
        tensor([0.2500])
    """
    if isinstance(source, tuple | list) and len(source) == 2:
        return _statistics(*source)
    if isinstance(source, Mapping) and "image_mean" not in source:
        return _of_mapping(source)
    facts = source if isinstance(source, Mapping) else _facts_of(source)
    if facts.get("do_normalize") is False:
        return _statistics(0.0, 1.0)
    if "scale_" in facts and facts.get("mean_") is None and facts.get("center_") is None:
        return _of_scaler(facts)
    for mean, std in _NAMES:
        if facts.get(mean) is not None and facts.get(std) is not None:
            unit = float(facts.get("rescale_factor", _PIXEL) or _PIXEL) / _PIXEL
            return _statistics(_tensor(facts[mean]) / unit, _tensor(facts[std]) / unit)
    raise ModelError(
        f"the preprocessing is a {type(source).__name__} without mean and std; give dict(mean=..., std=...), a pair "
        "(mean, std), or an image processor or scaler that has them"
    )


def own_statistics(model: nn.Module) -> Statistics:
    """Return the statistics of the configuration that a network of timm or transformers carries.

    Args:
        model: the network.

    Returns:
        The statistics.

    Raises:
        ModelError: the network carries none.
    """
    facts = vars(model).get("pretrained_cfg") or vars(model).get("default_cfg")
    if isinstance(facts, Mapping) and facts.get("mean") is not None:
        return _of_mapping(facts)
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    stored = _processor_file(name) if name else None
    if stored is not None:
        return statistics_of(stored)
    raise ModelError(
        f"{type(model).__name__} carries no preprocessing of timm or transformers; "
        "give advreg.normalized(model, mean, std) or preprocessing="
    )


def _processor_file(name: str) -> Mapping[str, Any] | None:
    """Return the stored configuration of transformers' image processor; nothing is downloaded."""
    from transformers.utils.hub import cached_file  # the network is one of its own, so it is installed

    path = cached_file(
        name, "preprocessor_config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False
    )
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        found: Mapping[str, Any] = parse_json(file.read())
    return found if "image_mean" in found or found.get("do_normalize") is False else None


def _facts_of(source: object) -> dict[str, Any]:
    names = [name for pair in _NAMES for name in pair] + ["do_normalize", "rescale_factor", "min_"]
    return {name: getattr(source, name) for name in names if hasattr(source, name)}


def _of_mapping(facts: Mapping[str, Any]) -> Statistics:
    if not {"mean", "std"} & set(facts):
        raise ModelError(f"the preprocessing holds {', '.join(map(str, facts))}; give mean, std or both")
    if facts.get("flip_axis") is not None:
        raise ModelError("the preprocessing flips an axis; do that in a module, normalized(model, before=module)")
    mean, std = facts.get("mean"), facts.get("std")
    return _statistics(
        torch.zeros_like(_tensor(std)) if mean is None else mean,
        torch.ones_like(_tensor(mean)) if std is None else std,
        facts.get("axis"),
    )


def _of_scaler(facts: Mapping[str, Any]) -> Statistics:
    """Return the statistics of a scaler without a mean: ``x / scale_``, or MinMaxScaler's ``x scale_ + min_``."""
    scale = _tensor(facts["scale_"])
    if facts.get("min_") is None:
        return _statistics(torch.zeros_like(scale), scale)
    return _statistics(-_tensor(facts["min_"]) / scale, 1 / scale)


def _statistics(mean: Any, std: Any, axis: int | None = None) -> Statistics:
    means, stds = _tensor(mean), _tensor(std)
    if means.numel() == 1 or stds.numel() == 1:
        size = max(means.numel(), stds.numel())
        means, stds = (each.flatten().expand(size) for each in (means, stds))
    return Statistics(means, stds, _batch_axis(axis, means))


def _batch_axis(axis: int | None, means: Tensor) -> int:
    """Return the axis of a batch along which the numbers run; Foolbox counts from the end of an image."""
    return 1 if axis in (None, -3) or means.numel() == 1 else int(axis or 1)


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)

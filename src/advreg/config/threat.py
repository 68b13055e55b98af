"""The threat model of a configuration; a module of its own, because reading a configuration needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from advreg.config.config import Config
from advreg.config.features import FeatureTable, parse_features
from advreg.errors import ConfigError
from advreg.threat import ThreatModel


def configured_threat(config: Config, sets: Sequence[Any] = ()) -> ThreatModel:
    """Return the threat model of the section ``[threat]``, with the features of ``[features]`` where there are any.

    Args:
        config: configuration of a run.
        sets: training set and test set, which features are checked against.

    Raises:
        ThreatError: the section is no threat model, such as an eps wider than the box.
        ConfigError: features that are malformed or undecided, or do not fit the data.

    Example:
        >>> str(configured_threat(Config().replace_with(["threat.norm=l2", "threat.eps=0.5"])))
        'l2:0.5'
    """
    section = config.threat
    if config.features:
        return threat_on_features(configured_features(config), section.norm, section.eps, sets)
    low, high = section.box
    if section.norm == "snr":
        return ThreatModel.parse(f"snr:{section.eps!r}@{low!r},{high!r}")
    scale: Any = section.scale or None
    return ThreatModel(section.norm, section.eps, (low, high), scale=scale)  # type: ignore[arg-type]  # it checks its norm


def configured_features(config: Config) -> FeatureTable:
    """Return the features of the sections ``[features]`` and ``[relations]``."""
    return parse_features({"features": config.features, "relations": config.relations}, "run.toml")


def threat_on_features(table: FeatureTable, norm: str, eps: float, sets: Sequence[Any] = ()) -> ThreatModel:
    """Return the threat model of features, checked against the data: names of columns, lowest and highest values.

    Args:
        table: the features.
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
        eps: radius in units of the features.
        sets: training set and test set, so that both have one box where a feature ends at its clean value.

    Returns:
        The threat model.

    Raises:
        ConfigError: undecided features, data that are no table, other columns, or rows outside the limits of a feature.
    """
    if not sets:
        return table.threat(norm, eps)
    rows = [part for each in sets if isinstance(part := getattr(each, "values", None), Tensor) and part.ndim == 2]
    if len(rows) < len(sets):
        raise ConfigError(f"{sets[0]!r} is no table, and features limit columns; leave the features out")
    table.require_columns(sets[0].columns)
    return table.threat(norm, eps, torch.cat([part.cpu() for part in rows]))

"""The threat model of a configuration; a module of its own, because reading a configuration needs no torch."""

from __future__ import annotations

from advreg.config.config import Config
from advreg.config.features import parse_features
from advreg.threat import ThreatModel


def configured_threat(config: Config) -> ThreatModel:
    """Return the threat model of the section ``[threat]``, with the features of ``[features]`` where there are any.

    Args:
        config: configuration of a run.

    Raises:
        ThreatError: the section is no threat model, such as an eps wider than the box.
        ConfigError: features that are malformed or undecided.

    Example:
        >>> str(configured_threat(Config().replace_with(["threat.norm=l2", "threat.eps=0.5"])))
        'l2:0.5'
    """
    section = config.threat
    if config.features:
        document = {"features": config.features, "relations": config.relations}
        return parse_features(document, "run.toml").threat(section.norm, section.eps)
    low, high = section.box
    return ThreatModel(section.norm, section.eps, (low, high))  # type: ignore[arg-type]  # it checks its norm

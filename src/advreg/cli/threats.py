"""Which threat model a verb works with: the one on the command line, else the run's own."""

from __future__ import annotations

from advreg.config import Config
from advreg.errors import ThreatError
from advreg.threat import ThreatModel


def of_config(config: Config) -> ThreatModel:
    """Return the threat model of a configuration."""
    section = config.threat
    low, high = section.box
    return ThreatModel(section.norm, section.eps, (low, high))  # type: ignore[arg-type]  # it checks its norm


def threat_from_options(text: str | None, config: Config | None) -> ThreatModel:
    """Return the threat model that the command line gives, or the run's own.

    Args:
        text: ``norm:eps`` or ``norm:eps@low,high``; None where the option is absent.
        config: the run's configuration; None for a model that is no run folder.

    Raises:
        ThreatError: neither gives one, or the text is none.

    Example:
        >>> str(chosen("linf:8/255", None))
        'linf:8/255'
    """
    if text is not None:
        return ThreatModel.parse(text)
    if config is None or not config.threat.eps:
        raise ThreatError("no threat given: add --threat norm:eps, such as --threat linf:8/255")
    return of_config(config)


def of_pixels(text: str) -> ThreatModel:
    """Return the threat model of a text for images that are written as bytes, whose box is [0, 1].

    Raises:
        ThreatError: another box, with the text to give instead.

    Example:
        >>> of_pixels("linf:8@0,255")
        Traceback (most recent call last):
        ...
        advreg.errors.ThreatError: threat is 'linf:8@0,255'; photographs are pixels in [0, 1]: write linf:8/255
    """
    threat = ThreatModel.parse(text)
    if threat.box != (0.0, 1.0):
        low, high = threat.box
        inside = ThreatModel(threat.norm, float(threat.eps) / (high - low))
        raise ThreatError(f"threat is {text!r}; photographs are pixels in [0, 1]: write {inside}")
    return threat

"""Protocols: frozen, named, versioned lists of attacks. Two figures may be compared only if their protocol ids are equal.

A protocol's attacks run in order, each on the examples that the ones before it left standing. To change what a name means,
add a version: the id stands in every result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from advreg import attacks
from advreg.errors import ConfigError, did_you_mean
from advreg.threat import ThreatModel

Attack = Callable[..., Any]
"""``(model, x, y, threat, *, seed, ids) -> result`` with ``x_adv``; ``ids`` is left out where the function has none."""


@dataclass(frozen=True)
class Stage:
    """One attack of a protocol.

    Attributes:
        name: as it stands in the ledger.
        attack: the function.
        nearest: share of the examples still standing that it is tried on, those nearest to the boundary; 1 for all.
    """

    name: str
    attack: Attack
    nearest: float = 1.0


@dataclass(frozen=True)
class Protocol:
    """A named, versioned list of attacks.

    Example:
        >>> resolve("quick").id(ThreatModel("linf", 0.3))
        'linf-0.3-quick@1'
    """

    name: str
    version: int
    stages: tuple[Stage, ...]

    def id(self, threat: ThreatModel) -> str:
        """Return the frozen id that results carry: norm, eps, name and version."""
        return f"{threat.norm}-{float(threat.eps):.6g}-{self.name}@{self.version}"


_PGD40 = Stage("pgd-40", functools.partial(attacks.pgd, steps=40))

PROTOCOLS: dict[str, Protocol] = {
    "fgsm": Protocol("fgsm", 1, (Stage("fgsm", attacks.fgsm),)),
    "quick": Protocol("quick", 1, (_PGD40,)),
    "basic": Protocol("basic", 1, (Stage("fgsm", attacks.fgsm), _PGD40)),
}


def resolve(protocol: str | Protocol) -> Protocol:
    """Return the protocol of this name, or the one given.

    Raises:
        ConfigError: no protocol has this name.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise ConfigError(f"protocol is {protocol!r}; allowed: {known}.{did_you_mean(protocol, PROTOCOLS)}")
    return PROTOCOLS[protocol]

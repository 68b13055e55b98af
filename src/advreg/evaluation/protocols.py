"""Protocols: frozen, named, versioned lists of attacks. Two figures may be compared only if their protocol ids are equal.

A protocol's attacks run in order, each on the examples that the ones before it left standing. To change what a name means,
add a version: the id stands in every result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from advreg import attacks
from advreg.errors import ConfigError, ThreatError, did_you_mean
from advreg.evaluation.rows import CLEAN
from advreg.imports import named_function
from advreg.objectives import dlr, probability_margin, targeted_dlr
from advreg.threat import ThreatModel

Attack = Callable[..., Any]
"""``(model, x, y, threat, *, seed, ids) -> result`` with ``x_adv``; ``ids`` is left out where the function has none."""


@dataclass(frozen=True)
class Stage:
    """One attack of a protocol.

    Attributes:
        name: as it stands in the ledger.
        attack: the function.
        nearest: share of the examples still standing that it begins with, those nearest to the boundary; while it breaks a
            fifth of what it tried, it goes on to as many behind them. 1 for all at once.
    """

    name: str
    attack: Attack
    nearest: float = 1.0

    @property
    def needs_no_gradient(self) -> bool:
        """Whether the attack is one of ours that asks for scores or labels only."""
        function = self.attack
        while isinstance(function, partial):
            function = function.func
        return getattr(function, "__module__", "").startswith("advreg.attacks.blackbox")


@dataclass(frozen=True)
class Protocol:
    """A named, versioned list of attacks.

    Raises:
        ConfigError: two attacks of one name, or one called ``clean``: rows of the ledger go by the name.

    Example:
        >>> resolve("quick", "linf").id(ThreatModel("linf", 0.3))
        'linf-0.3-quick@1'
    """

    name: str
    version: int
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        names = [CLEAN, *(stage.name for stage in self.stages)]
        taken = next((name for k, name in enumerate(names) if name in names[:k]), None)
        if taken is not None:
            whose = "the unattacked examples are" if taken == CLEAN else "one before it is"
            raise ConfigError(f"an attack of the protocol is called {taken!r}, as {whose}; give it another name")

    def id(self, threat: ThreatModel) -> str:
        """Return the frozen id that results carry: norm, eps, the box where it is not [0, 1], name and version.

        Raises:
            ThreatError: an eps for each example, which no id can name.
        """
        if isinstance(threat.eps, Tensor) and threat.eps.ndim:
            raise ThreatError(
                f"eps is a tensor of {len(threat.eps)}; a protocol names one number for all: evaluate each radius by itself"
            )
        low, high = threat.box
        box = "" if (low, high) == (0.0, 1.0) else f"-box-{low:g}-{high:g}"
        return f"{threat.norm}-{float(threat.eps):.6g}{box}-{self.name}@{self.version}"

    def followed_by(self, *names: str) -> Protocol:
        """Return this protocol with attacks of your own after it, each on what then still stands.

        Args:
            names: ``pkg.module:function``; the function takes ``(model, x, y, threat)``, and ``seed`` and ``ids`` if it wants
                them, and returns something with ``x_adv``. It only proposes: the original model judges.

        Raises:
            ConfigError: a name that leads to no function.

        Example:
            >>> resolve("quick", "linf").followed_by("advreg.attacks:spsa").id(ThreatModel("linf", 0.3))
            'linf-0.3-quick+advreg.attacks.spsa@1'
        """
        own = tuple(Stage(name.replace(":", "."), named_function(name, ConfigError)) for name in names)
        return Protocol("+".join([self.name, *(stage.name for stage in own)]), self.version, self.stages + own)


def _fgsm(norm: str) -> tuple[Stage, ...]:
    return (Stage("fgsm", attacks.fgsm),)


def _quick(norm: str) -> tuple[Stage, ...]:
    return (Stage("pgd-40", partial(attacks.pgd, steps=40)),)


def _standard(norm: str) -> tuple[Stage, ...]:
    """AutoAttack's standard version (Croce and Hein, ICML 2020; ICML 2021 for l1): order, budgets and losses as published."""
    if norm == "l1":
        ce = partial(attacks.apgd, steps=100, restarts=5, large_eps=True)
        rival = partial(attacks.apgd_targeted, steps=100, targets=5, large_eps=True)
    else:
        ce = partial(attacks.apgd, steps=100)
        rival = partial(attacks.apgd_targeted, steps=100, targets=9)
    return (Stage("apgd-ce", ce), Stage("apgd-t", rival), _FAB_T, _SQUARE)


def _plus(norm: str) -> tuple[Stage, ...]:
    """AutoAttack's larger version: five restarts, DLR, and FAB besides FAB-T."""
    large = norm == "l1"
    return (
        Stage("apgd-ce", partial(attacks.apgd, restarts=5, large_eps=large)),
        Stage("apgd-dlr", partial(attacks.apgd, restarts=5, objective=dlr, large_eps=large)),
        Stage("fab", partial(attacks.fab, steps=100, restarts=5)),
        _SQUARE,
        Stage("apgd-t", partial(attacks.apgd_targeted, targets=9, large_eps=large)),
        _FAB_T,
    )


def _rand(norm: str) -> tuple[Stage, ...]:
    """AutoAttack's version for random models: gradients, losses and verdicts averaged over 20 samples."""
    large = norm == "l1"
    return (
        Stage("apgd-ce", partial(attacks.apgd, eot=20, large_eps=large)),
        Stage("apgd-dlr", partial(attacks.apgd, eot=20, objective=dlr, large_eps=large)),
    )


def _strong(norm: str) -> tuple[Stage, ...]:
    """Ours, by yield per cost: a short annealed run for all; then rivals, longer runs and black boxes on who is nearest.

    On robust networks nearly all that a later attack breaks is among the nearest few to the boundary after the first one; where
    it is not, as with masked gradients, an attack goes on to those behind while it keeps breaking them.
    """
    near = partial(attacks.annealed, objective=probability_margin)
    rival = partial(attacks.annealed, steps=20, targets=3, objective=targeted_dlr)
    long = partial(attacks.apgd_targeted, steps=50, targets=9, large_eps=norm == "l1")
    return (
        Stage("annealed-ce", partial(attacks.annealed, steps=20)),
        Stage("annealed-t", rival, nearest=0.25),
        Stage("annealed-pm", partial(near, steps=50, restarts=4), nearest=0.1),
        Stage("square-small", partial(attacks.square, queries=2000, p=0.3), nearest=0.05),
        Stage("annealed-long", partial(near, steps=100, restarts=8), nearest=0.03),
        Stage("apgd-t", long, nearest=0.03),
        Stage("square", _SQUARE.attack, nearest=0.02),
    )


def _blackbox(norm: str) -> tuple[Stage, ...]:
    """For models that only answer with scores: no gradient anywhere."""
    return (Stage("random-search", partial(attacks.random_search, draws=100)), _SQUARE)


def _labels(norm: str) -> tuple[Stage, ...]:
    """For models that only answer with a label."""
    return (Stage("hopskipjump", attacks.hopskipjump),)


_FAB_T = Stage("fab-t", partial(attacks.fab, steps=100, targets=9))
_SQUARE = Stage("square", partial(attacks.square, queries=5000))

PROTOCOLS: dict[str, tuple[int, Callable[[str], tuple[Stage, ...]]]] = {
    "fgsm": (2, _fgsm),
    "quick": (1, _quick),
    "basic": (2, lambda norm: (*_fgsm(norm), *_quick(norm))),
    "strong": (2, _strong),
    "standard": (2, _standard),
    "plus": (2, _plus),
    "rand": (1, _rand),
    "blackbox": (1, _blackbox),
    "labels": (1, _labels),
}
"""Version and attacks of every protocol, by name; the attacks depend on the norm."""


def resolve(protocol: str | Protocol, norm: str) -> Protocol:
    """Return the protocol of this name for a norm, or the one given.

    Raises:
        ConfigError: no protocol has this name.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise ConfigError(f"protocol is {protocol!r}; allowed: {known}.{did_you_mean(protocol, PROTOCOLS)}")
    version, stages = PROTOCOLS[protocol]
    return Protocol(protocol, version, stages(norm))

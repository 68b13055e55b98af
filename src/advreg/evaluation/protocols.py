"""Protocols: frozen, named, versioned lists of attacks. Two figures may be compared only if their protocol ids are equal.

The attacks of a protocol run in order, each on the survivors of those before it. To change what a name means, add a version:
every result carries the id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from advreg import attacks
from advreg.errors import ConfigError, ThreatError, did_you_mean
from advreg.evaluation.task_protocols import entries_of
from advreg.objectives import cross_entropy, dlr, probability_margin, rival_margin
from advreg.plugins import named_function
from advreg.results.ledger_rows import CLEAN
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel

Attack = Callable[..., Any]
"""``(model, x, y, threat, *, seed, ids) -> result`` with ``x_adv``; ``ids`` is left out where the function has none."""


@dataclass(frozen=True, repr=False)
class ProtocolStage:
    """One attack of a protocol.

    Attributes:
        name: of the attack in the ledger.
        attack: the function.
        nearest: share of the survivors that it begins with, those nearest to the boundary; while it breaks a fifth of what
            it tried, it goes on to as many behind them. 1: all at once.
        needs_gradient: whether the attack uses gradients; black boxes, which use scores or labels only, do not.
    """

    name: str
    attack: Attack
    nearest: float = 1.0
    needs_gradient: bool = True

    def __repr__(self) -> str:
        share = f", nearest {self.nearest:.0%}" if self.nearest < 1 else ""
        return f"ProtocolStage({self.name}{share}{'' if self.needs_gradient else ', no gradient'})"


@dataclass(frozen=True, repr=False)
class Protocol:
    """A named, versioned list of attacks.

    Attributes:
        name: name of the protocol.
        version: raised whenever the list changes.
        stages: the attacks, in order; each runs on the survivors of those before it.

    Raises:
        ConfigError: two attacks of one name, or one called ``clean``: rows of the ledger carry the name.

    Example:
        >>> resolve("quick", "linf").id(ThreatModel("linf", 0.3))
        'linf-0.3-quick@2'
    """

    name: str
    version: int
    stages: tuple[ProtocolStage, ...]

    def __post_init__(self) -> None:
        names = [CLEAN, *(stage.name for stage in self.stages)]
        taken = next((name for k, name in enumerate(names) if name in names[:k]), None)
        if taken is not None:
            other = "the unattacked examples are" if taken == CLEAN else "one before it is"
            raise ConfigError(f"an attack of the protocol is called {taken!r}, as {other}; give it another name")

    def __repr__(self) -> str:
        return f"Protocol({self.name}@{self.version}: {', '.join(stage.name for stage in self.stages)})"

    def id(self, threat: ThreatModel, task: Task = CLASSES) -> str:
        """Return the frozen id of results: norm, eps, a box other than [0, 1], hashes of scale and rules, name and version.

        Args:
            threat: the threat model.
            task: what an output is worth; named first where it is not classification.

        Raises:
            ThreatError: an eps for each example, which no id can name.
        """
        if isinstance(threat.eps, Tensor) and threat.eps.ndim:
            raise ThreatError(
                f"eps is a tensor of {len(threat.eps)}; a protocol names one number for all: evaluate each radius by itself"
            )
        low, high = threat.box
        box = "" if (low, high) == (0.0, 1.0) else f"-box-{low:g}-{high:g}"
        prefix = "" if task is CLASSES else f"{task.name}-"
        return f"{prefix}{threat.norm}-{float(threat.eps):.6g}{box}{threat.suffix}-{self.name}@{self.version}"

    def on_unproved(self) -> Protocol:
        """Return this protocol for the examples that a certificate leaves: every attack on all of them, as they are near.

        Example:
            >>> resolve("strong", "linf").on_unproved().id(ThreatModel("linf", 0.3))
            'linf-0.3-strong+certificate@3'
        """
        stages = tuple(replace(stage, nearest=1.0) for stage in self.stages)
        return Protocol(f"{self.name}+certificate", self.version, stages)

    def followed_by(self, *names: str) -> Protocol:
        """Return this protocol with attacks of your own after it, each on the survivors of those before it.

        Args:
            names: ``pkg.module:function``; the function takes ``(model, x, y, threat)``, and ``seed`` and ``ids`` if it has
                them, and returns an object with ``x_adv``. The original model verifies its points.

        Raises:
            ConfigError: a name that leads to no function.

        Example:
            >>> resolve("quick", "linf").followed_by("advreg.attacks:spsa").id(ThreatModel("linf", 0.3))
            'linf-0.3-quick+advreg.attacks.spsa@2'
        """
        own = tuple(ProtocolStage(name.replace(":", "."), named_function(name, ConfigError)) for name in names)
        return Protocol("+".join([self.name, *(stage.name for stage in own)]), self.version, self.stages + own)


def _fgsm(norm: str) -> tuple[ProtocolStage, ...]:
    return (ProtocolStage("fgsm", attacks.fgsm),)


def _pgd_40(norm: str) -> tuple[ProtocolStage, ...]:
    return (ProtocolStage("pgd-40", partial(attacks.pgd, steps=40)),)


def _quick(norm: str) -> tuple[ProtocolStage, ...]:
    """Short runs with a long first step, then a few queries of Square.

    A robust network costs about 60 forwards and 60 backwards an example; an attack that keeps breaking examples goes on. In l2
    and l1, where robust networks are flat inside the ball, the runs start in a ball of 16 eps and come in.
    """
    if norm != "linf":
        short = partial(attacks.shrinking_pgd, schedule=((16, 3), (8, 3), (4, 3), (2, 4), (1, 6)), restarts=2)
        return (
            ProtocolStage("shrinking-pm", short),
            ProtocolStage("shrinking-ce", partial(short, objective=cross_entropy), nearest=0.35),
        )
    return (
        ProtocolStage("annealed-ce", partial(attacks.cosine_pgd, steps=15)),
        ProtocolStage("annealed-ce-2", partial(attacks.cosine_pgd, steps=20), nearest=0.2),
        ProtocolStage("square-warm", _square_after(partial(attacks.cosine_pgd, steps=10), 300, 0.1), nearest=0.06),
    )


def _square_after(first: Attack, queries: int, p: float) -> Attack:
    """Return Square begun at the end points of a gradient attack."""
    return partial(attacks.square, queries=queries, p=p, warm_start=first)


def _standard(norm: str) -> tuple[ProtocolStage, ...]:
    """AutoAttack's standard version (Croce and Hein, ICML 2020; ICML 2021 for l1): order, budgets and losses as published."""
    if norm == "l1":
        ce = partial(attacks.apgd, steps=100, restarts=5, large_eps=True)
        rival = partial(attacks.apgd_targeted, steps=100, target_classes=5, large_eps=True)
    else:
        ce = partial(attacks.apgd, steps=100)
        rival = partial(attacks.apgd_targeted, steps=100, target_classes=9)
    return (ProtocolStage("apgd-ce", ce), ProtocolStage("apgd-t", rival), _FAB_T, _SQUARE)


def _plus(norm: str) -> tuple[ProtocolStage, ...]:
    """AutoAttack's larger version: five restarts, DLR, and FAB besides FAB-T."""
    large = norm == "l1"
    return (
        ProtocolStage("apgd-ce", partial(attacks.apgd, restarts=5, large_eps=large)),
        ProtocolStage("apgd-dlr", partial(attacks.apgd, restarts=5, objective=dlr, large_eps=large)),
        ProtocolStage("fab", partial(attacks.fab, steps=100, restarts=5)),
        _SQUARE,
        ProtocolStage("apgd-t", partial(attacks.apgd_targeted, target_classes=9, large_eps=large)),
        _FAB_T,
    )


def _rand(norm: str) -> tuple[ProtocolStage, ...]:
    """AutoAttack's version for random models: gradients, losses and verdicts averaged over 20 samples."""
    large = norm == "l1"
    return (
        ProtocolStage("apgd-ce", partial(attacks.apgd, eot=20, large_eps=large)),
        ProtocolStage("apgd-dlr", partial(attacks.apgd, eot=20, objective=dlr, large_eps=large)),
    )


def _strong(norm: str) -> tuple[ProtocolStage, ...]:
    """Return the list by yield per cost: a short run on all, then restarts, other classes and Square on the nearest.

    On robust networks later attacks break few examples except those nearest to the boundary after the first. Elsewhere, as with
    masked gradients, an attack goes on to the examples behind while it keeps breaking them. The restarts try many more examples
    than they break: after a single start an example near the boundary may appear far from it, and Square, which breaks most of
    the survivors of gradient attacks, tries only the nearest.
    """
    if norm != "linf":
        return _strong_inward(norm)
    ce = partial(attacks.cosine_pgd, steps=20)
    pm = partial(attacks.cosine_pgd, objective=probability_margin, steps=50)
    return (
        ProtocolStage("annealed-ce", ce),
        ProtocolStage("annealed-ce-2", partial(ce, restarts=2), nearest=0.3),
        ProtocolStage("annealed-t", partial(ce, target_classes=3, objective=rival_margin), nearest=0.05),
        ProtocolStage("square-warm", _square_after(pm, 2000, 0.1), nearest=0.05),
    )


def _strong_inward(norm: str) -> tuple[ProtocolStage, ...]:
    """Return the list for l2 and l1: most attacks come in from outside the ball, where flat networks have a gradient.

    In l1 only the sparse steps of Auto-PGD break a few of the examples near the boundary, each from few of its starts.
    """
    inward, sparse = attacks.shrinking_pgd, partial(attacks.apgd, steps=40, restarts=5, large_eps=True)
    return (
        ProtocolStage("annealed-ce", partial(attacks.cosine_pgd, steps=10)),
        ProtocolStage("shrinking-pm", partial(inward, restarts=12)),
        ProtocolStage("shrinking-ce", partial(inward, objective=cross_entropy, restarts=8), nearest=0.5),
        *((ProtocolStage("apgd-ce", sparse, nearest=0.2),) if norm == "l1" else ()),
        ProtocolStage("fab-t", partial(attacks.fab, steps=30, target_classes=3), nearest=0.1),
        ProtocolStage("square-warm", _square_after(partial(inward, restarts=1), 500, 0.1), nearest=0.05),
    )


def _blackbox(norm: str) -> tuple[ProtocolStage, ...]:
    """For models that return scores only: no attack uses gradients."""
    return (ProtocolStage("random-search", partial(attacks.random_search, queries=100), needs_gradient=False), _SQUARE)


def _labels(norm: str) -> tuple[ProtocolStage, ...]:
    """For models that return labels only."""
    return (ProtocolStage("hopskipjump", attacks.hopskipjump, needs_gradient=False),)


_FAB_T = ProtocolStage("fab-t", partial(attacks.fab, steps=100, target_classes=9))
_SQUARE = ProtocolStage("square", partial(attacks.square, queries=5000), needs_gradient=False)

PROTOCOLS: dict[str, tuple[int, Callable[[str], tuple[ProtocolStage, ...]]]] = {
    "fgsm": (2, _fgsm),
    "quick": (2, _quick),
    "basic": (2, lambda norm: (*_fgsm(norm), *_pgd_40(norm))),
    "strong": (3, _strong),
    "standard": (3, _standard),
    "plus": (3, _plus),
    "rand": (1, _rand),
    "blackbox": (2, _blackbox),
    "labels": (1, _labels),
}
"""Version and attacks of every protocol, by name; the attacks depend on the norm."""

_OTHER_NAMES = {"autoattack": "standard", "auto-attack": "standard", "aa": "standard"}  # what others call the protocol
DEFAULT_PROTOCOL = "quick"
"""The protocol of `evaluate`, of `robustness_curve` and of ``advreg evaluate`` where none is given."""


def _on_features(queries: int) -> tuple[ProtocolStage, ...]:
    """Return the list for threats with units or rules of single features: each of the two finds what the other misses."""
    search = partial(attacks.mutate, queries=queries)
    return (ProtocolStage("capgd", attacks.capgd), ProtocolStage("mutate", search, needs_gradient=False))


_FEATURES: dict[str, Callable[[], tuple[ProtocolStage, ...]]] = {
    "quick": lambda: _on_features(400),
    "standard": lambda: _on_features(400),
    "strong": lambda: _on_features(2000),
    "blackbox": lambda: _on_features(2000)[1:],
    "fgsm": lambda: _fgsm(""),
    "basic": lambda: (*_fgsm(""), *_pgd_40("")),
}
"""Attacks of a protocol where the threat model limits single features; ids differ by the hashes of scale and rules."""


def resolve(protocol: str | Protocol, norm: str, task: Task = CLASSES, *, limited: bool = False) -> Protocol:
    """Return the protocol of this name for a norm, or the one given.

    Args:
        protocol: name of a protocol (``autoattack`` is ``standard``), or a protocol of your own.
        norm: ``"linf"``, ``"l2"`` or ``"l1"``; some protocols differ between norms.
        task: what an output is worth; tasks other than classification have protocols of their own.
        limited: whether the threat model has units, boxes or rules of single features; the attacks are then others.

    Returns:
        The protocol.

    Raises:
        ConfigError: no protocol has this name, or it has no attack for limited features.

    Example:
        >>> resolve("quick", "l2").name, resolve("AutoAttack", "l2").name
        ('quick', 'standard')
    """
    if isinstance(protocol, Protocol):
        return protocol
    protocol = _OTHER_NAMES.get(protocol.lower(), protocol)
    if protocol not in PROTOCOLS and task is CLASSES:
        known = ", ".join(PROTOCOLS)
        raise ConfigError(f"protocol is {protocol!r}; allowed: {known}.{did_you_mean(protocol, PROTOCOLS)}")
    if task is not CLASSES:
        version, entries = entries_of(protocol, task, limited=limited)
        return Protocol(protocol, version, tuple(ProtocolStage(*entry) for entry in entries))
    version, stages = PROTOCOLS[protocol]
    if limited:
        if protocol not in _FEATURES:
            raise ConfigError(f"protocol {protocol!r} knows no scale or rules; use one of {', '.join(_FEATURES)}")
        return Protocol(protocol, version, _FEATURES[protocol]())
    return Protocol(protocol, version, stages(norm))

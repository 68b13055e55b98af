"""Published figures of robust models of others, by the names of RobustBench: a table of data, without torch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Any

from advreg.errors import ModelError, did_you_mean

SCHEME = "robustbench"


@dataclass(frozen=True)
class PublishedFigure:
    """Clean and robust accuracy under a threat, ``norm:eps``, as published."""

    threat: str
    clean: float
    robust: float

    @property
    def sentence(self) -> str:
        """The figure in a sentence, with its source."""
        figures = f"clean accuracy {self.clean:.2%}, robust accuracy {self.robust:.2%} at {self.threat}"
        return f"Published for this model: {figures} ({source()})."

    def is_of(self, norm: str, eps: float) -> bool:
        """Return whether the figure was measured under this norm and eps."""
        own_norm, _, own_eps = self.threat.partition(":")
        return own_norm == norm and abs(float(Fraction(own_eps)) - eps) < 1e-9


@dataclass(frozen=True)
class PublishedModel:
    """A model of the table.

    Attributes:
        name: of RobustBench.
        network: name in the zoo.
        paper: where it was published.
        figures: one for each threat.
        options: of the network, such as its normalisation.
    """

    name: str
    network: str
    paper: str
    figures: tuple[PublishedFigure, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@cache
def models() -> Mapping[str, PublishedModel]:
    """Return every model of the table by name."""
    rows = _table()["model"]
    return {
        row["name"]: PublishedModel(**row | {"figures": tuple(PublishedFigure(**each) for each in row["figures"])})
        for row in rows
    }


@cache
def _table() -> Mapping[str, Any]:
    return tomllib.loads(files("advreg").joinpath("published.toml").read_text(encoding="utf-8"))


def source() -> str:
    """Return where the figures were published."""
    return str(_table()["source"])


def find(name: str) -> PublishedModel:
    """Return a model of the table.

    Args:
        name: such as ``Carmon2019Unlabeled``.

    Returns:
        The model.

    Raises:
        ModelError: no such name.

    Example:
        >>> find("Carmon2019Unlabeled").network
        'wide-resnet-28-10'
    """
    known = models()
    if name not in known:
        near = did_you_mean(name, known)
        raise ModelError(f"unknown model '{SCHEME}:{name}'.{near} Allowed: {', '.join(known)}")
    return known[name]


def figure_of(name: object, norm: str, eps: float) -> PublishedFigure | None:
    """Return the published figure of a model by its name in results; None where there is none.

    Args:
        name: such as ``robustbench:Carmon2019Unlabeled``.
        norm: of the threat model.
        eps: of the threat model.

    Returns:
        The figure under this threat, or None.

    Example:
        >>> figure_of("robustbench:Carmon2019Unlabeled", "linf", 8 / 255).robust
        0.5953
    """
    scheme, _, rest = str(name).partition(":")
    model = models().get(rest) if scheme == SCHEME else None
    return next((each for each in model.figures if each.is_of(norm, eps)), None) if model else None

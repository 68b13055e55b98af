"""Limits that a threat model sets for examples: radii, and boxes and units of features, that must fit their shape."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from advreg.errors import DataError, ThreatError


class BoxedThreat(Protocol):
    """The part of a threat model that these functions use."""

    @property
    def box(self) -> tuple[float, float]:
        """Lowest and highest valid value of an input."""

    @property
    def eps(self) -> float | Tensor:
        """One radius, or one for each example ``(B,)``."""

    @property
    def one_per_example(self) -> bool:
        """Return whether a tensor eps is known to contain one radius for each example."""


def reject_radii(x: Tensor, ball: BoxedThreat) -> None:
    """Raise unless eps is one number, or unambiguously one for each example.

    Raises:
        DataError: another number of radii, or as many radii as examples and as features.
    """
    eps = ball.eps
    if not isinstance(eps, Tensor) or not eps.ndim:
        return
    features = x.shape[1] == len(eps) and not ball.one_per_example
    if len(eps) != len(x):
        hint = "; per feature is scale=" if features else ""
        raise DataError(f"eps holds {len(eps)} radii for {len(x)} examples; give one for each, or one number{hint}")
    if features and (x.ndim == 2 or len(eps) > 1):
        raise DataError(
            f"eps holds {len(eps)} radii for {len(x)} examples of {len(eps)} features, which could mean either; "
            "give a column, eps[:, None], for one radius an example; per feature is scale="
        )


def reject_limits(x: Tensor, ball: BoxedThreat) -> None:
    """Raise unless the limits of features fit the examples, and every value is inside its own box.

    Raises:
        DataError: limits of another shape, or the first value outside.
    """
    limits = getattr(ball, "limits", None)
    if limits is None:
        return
    limits.units(x)
    low, high = limits.bounds(x)
    if getattr(ball, "rules", None) is not None:
        ball.rules.reject_invalid(x)  # type: ignore[attr-defined]  # of threat models with rules
    wrong = ((x < low) | (x > high)).flatten(1).nonzero()
    if len(wrong):
        row, at = wrong[0].tolist()
        value, ends = x[row].flatten()[at], [float(end[row].flatten()[at]) for end in (low, high)]
        raise DataError(
            f"feature {at} of example {row} is {float(value):g}, outside its box [{ends[0]:g}, {ends[1]:g}] "
            f"({len(wrong)} values in all); correct the box or leave these examples out"
        )


def require_alike_features(attack: str, threat: BoxedThreat) -> None:
    """Raise if a threat model limits single features, for attacks that search in a geometry of their own.

    Args:
        attack: name of the attack, for the error.
        threat: the threat model.

    Raises:
        ThreatError: a scale, a box for each feature, or rules.
    """
    if getattr(threat, "limits", None) is not None:
        raise ThreatError(
            f"{attack} searches in a geometry of its own, without scale, rules or a box for each feature; "
            "use pgd, apgd, capgd or mutate"
        )

"""How much a diagnosis may spend."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Budget:
    """How much a diagnosis may spend.

    Attributes:
        examples: that a challenge to the figure begins with: the nearest to the boundary.
        steps: of challenges along the gradient.
        queries: of Square, for each example.
        draws: of the random search, for each example.
        probes: examples whose landscape is looked at.
        binarised: examples of the binarisation test; all probes where these leave its grade in doubt.
        inner: points that each of them is fitted to.
        thorough: whether the costly checks are made too.
    """

    examples: int = 64
    steps: int = 50
    queries: int = 500
    draws: int = 200
    probes: int = 48
    binarised: int = 20
    inner: int = 499
    thorough: bool = True


QUICK = Budget(64, 40, 250, 100, 32, 16, 249, thorough=False)

CHEAP = 500
"""Examples of a check that takes a few passes for each."""

_NEAREST = 0.32  # of the examples of a figure, where they are many: 64 of 200


def budget_for(n: int, *, quick: bool = False) -> Budget:
    """Return what a diagnosis spends: about a minute of one core for 200 examples of a small network, then in proportion.

    Example:
        >>> budget_for(200).examples, budget_for(1000).examples, budget_for(1000, quick=True).examples
        (64, 320, 64)
    """
    return QUICK if quick else replace(Budget(), examples=max(Budget.examples, math.ceil(_NEAREST * n)))

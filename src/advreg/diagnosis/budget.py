"""Budgets of a diagnosis: how many examples, steps and queries its checks use."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Budget:
    """Limits on the cost of a diagnosis.

    Attributes:
        examples: robust examples that other attacks try first, those nearest to the boundary.
        steps: steps of gradient attacks.
        queries: queries of Square on each example.
        draws: points of the random search on each example.
        probes: examples on which gradients and losses are measured.
        binarised: examples of the binarisation test; all probes where these leave its grade uncertain.
        inner: points inside the ball that each read-out of the binarisation test is fitted to.
        thorough: whether the costly checks run too.
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
"""Number of examples in a check that takes a few passes each."""

_NEAREST = 0.32  # share of the examples that other attacks try first: 64 of 200


def budget_for(n: int, *, quick: bool = False) -> Budget:
    """Return the budget for ``n`` examples: about a minute of one core for 200 on a small network, then in proportion.

    Example:
        >>> budget_for(200).examples, budget_for(1000).examples, budget_for(1000, quick=True).examples
        (64, 320, 64)
    """
    return QUICK if quick else replace(Budget(), examples=max(Budget.examples, math.ceil(_NEAREST * n)))

"""Figures with intervals: shares exactly, means by drawing the prompts again, differences over the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advreg.statistics import clopper_pearson_interval, tango_interval

Floats = NDArray[np.float64]
DRAWS = 4000
"""How often prompts are drawn again: the ends of an interval then vary by a fortieth of its length."""


@dataclass(frozen=True)
class Estimate:
    """A measured number.

    Attributes:
        value: the estimate.
        interval: its 95% interval.
        n: prompts it was measured on.
        raw: what was counted, before the judge's errors were corrected for; None where there is nothing to correct.
    """

    value: float
    interval: tuple[float, float]
    n: int
    raw: float | None = None

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] (n={self.n})"

    def record(self) -> dict[str, Any]:
        """Return it as it stands in results.json."""
        found = {"value": self.value, "interval": list(self.interval), "n": self.n}
        return found if self.raw is None else {**found, "raw": self.raw}


def share(happened: Sequence[bool]) -> Estimate:
    """Return the share of prompts on which something happened, with its exact interval.

    Example:
        >>> print(share([True] * 3 + [False] * 7))
        0.300 [0.067, 0.652] (n=10)
    """
    n, hits = len(happened), sum(happened)
    return Estimate(hits / n if n else 0.0, clopper_pearson_interval(hits, n), n)


def mean(values: Sequence[float], seed: int = 0) -> Estimate | None:
    """Return the mean over prompts, with the interval of means over prompts drawn again; None without any.

    Example:
        >>> found = mean([1.0, 2.0, 3.0, 4.0])
        >>> found.value, 1.2 < found.interval[0] < found.value < found.interval[1] < 3.8
        (2.5, True)
    """
    if not values:
        return None
    x = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means = np.concatenate([rng.choice(x, (part, len(x))).mean(1) for part in _parts(len(x))])
    return Estimate(float(x.mean()), quantile_interval(means, float(x.mean())), len(x))


def difference_of_shares(base: Sequence[bool], other: Sequence[bool]) -> Estimate:
    """Return how much oftener something happened to the other than to the base, on the same prompts (Tango's interval).

    Example:
        >>> difference_of_shares([True, False, False], [True, True, False]).value
        0.3333333333333333
    """
    gone = sum(b and not o for b, o in zip(base, other, strict=True))
    come = sum(o and not b for b, o in zip(base, other, strict=True))
    n = len(base)
    return Estimate((come - gone) / n if n else 0.0, tango_interval(gone, come, n), n)


def difference_of_means(base: Sequence[float], other: Sequence[float], seed: int = 0) -> Estimate | None:
    """Return the mean difference, other minus base, over the same prompts; None without any."""
    return mean([o - b for b, o in zip(base, other, strict=True)], seed)


def quantile_interval(draws: Floats, value: float) -> tuple[float, float]:
    """Return the middle 95% of draws, widened to hold the estimate itself."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return min(float(low), value), max(float(high), value)


def _parts(n: int, most: int = 2_000_000) -> list[int]:
    """Return sizes that add up to `DRAWS`, each so small that its draws of ``n`` prompts fit into memory."""
    size = max(min(DRAWS, most // max(n, 1)), 1)
    return [min(size, DRAWS - first) for first in range(0, DRAWS, size)]

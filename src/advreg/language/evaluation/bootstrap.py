"""Estimates with 95% intervals: exact for shares, bootstrap for means, paired for differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from advreg.score_intervals import DRAWS as DRAWS
from advreg.score_intervals import Floats as Floats
from advreg.score_intervals import bootstrap_means, quantile_interval
from advreg.statistics import clopper_pearson_interval, tango_interval


@dataclass(frozen=True)
class Estimate:
    """An estimate with its 95% interval.

    Attributes:
        value: the estimate.
        interval: its 95% interval.
        n: number of prompts with a verdict.
        raw: the uncorrected share; None where the value is not corrected for the judge's errors.
        unscored: number of prompts without a verdict; the interval covers both of their possible outcomes.
    """

    value: float
    interval: tuple[float, float]
    n: int
    raw: float | None = None
    unscored: int = 0

    def __str__(self) -> str:
        low, high = self.interval
        rest = f", {self.unscored} unscored" if self.unscored else ""
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] (n={self.n}{rest})"

    def at_least(self, parts: Sequence[Estimate]) -> Estimate:
        """Return the estimate raised to those of events that imply this one.

        Args:
            parts: estimates over the same prompts.

        Example:
            >>> print(Estimate(0.5, (0.0, 0.9), 4).at_least([Estimate(0.6, (0.2, 0.8), 4)]))
            0.600 [0.200, 0.900] (n=4)
        """
        low = max([self.interval[0], *(part.interval[0] for part in parts)])
        value = max([self.value, *(part.value for part in parts)])
        return replace(self, value=value, interval=(min(low, value), max(self.interval[1], value)))

    def record(self) -> dict[str, Any]:
        """Return the estimate as results.json holds it.

        Example:
            >>> Estimate(0.5, (0.1, 0.9), 4).record()
            {'value': 0.5, 'interval': [0.1, 0.9], 'n': 4}
        """
        record = {"value": self.value, "interval": list(self.interval), "n": self.n}
        more = {"raw": self.raw, "unscored": self.unscored or None}
        return record | {name: value for name, value in more.items() if value is not None}


def share(happened: Sequence[bool]) -> Estimate:
    """Return the share of true values with its exact (Clopper-Pearson) interval.

    Args:
        happened: whether the event happened on each prompt.

    Example:
        >>> print(share([True] * 3 + [False] * 7))
        0.300 [0.067, 0.652] (n=10)
    """
    n, hits = len(happened), sum(happened)
    return Estimate(hits / n if n else 0.0, clopper_pearson_interval(hits, n), n)


def mean(values: Sequence[float], seed: int = 0) -> Estimate | None:
    """Return the mean with its percentile bootstrap interval; None without values.

    Args:
        values: a value for each prompt.
        seed: seed of the resampling.

    Example:
        >>> found = mean([1.0, 2.0, 3.0, 4.0])
        >>> found.value, 1.2 < found.interval[0] < found.value < found.interval[1] < 3.8
        (2.5, True)
    """
    if not values:
        return None
    x = np.asarray(values, float)
    return Estimate(float(x.mean()), quantile_interval(bootstrap_means(x, seed), float(x.mean())), len(x))


def difference_of_shares(base: Sequence[bool], other: Sequence[bool]) -> Estimate:
    """Return the paired difference of two shares, other minus base, with Tango's interval.

    Args:
        base: whether the event happened on each prompt with the base model.
        other: the same with the other model, in the same order.

    Example:
        >>> difference_of_shares([True, False, False], [True, True, False]).value
        0.3333333333333333
    """
    only_base = sum(b and not o for b, o in zip(base, other, strict=True))
    only_other = sum(o and not b for b, o in zip(base, other, strict=True))
    n = len(base)
    return Estimate((only_other - only_base) / n if n else 0.0, tango_interval(only_base, only_other, n), n)


def difference_of_means(base: Sequence[float], other: Sequence[float], seed: int = 0) -> Estimate | None:
    """Return the mean of the paired differences, other minus base; None without values.

    Args:
        base: a value for each prompt.
        other: a value for each prompt, in the same order.
        seed: seed of the resampling.

    Example:
        >>> difference_of_means([1.0, 2.0], [2.0, 3.0]).value
        1.0
    """
    return mean([o - b for b, o in zip(base, other, strict=True)], seed)

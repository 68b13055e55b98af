"""Intervals of means and figures of bounded scores: bootstrap, and one that is valid for any scores in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy  # loads scipy.optimize, which takes a second, where it is used
from numpy.typing import NDArray

from advreg.errors import DataError

Floats = NDArray[np.float64]

DRAWS = 4000
"""Number of bootstrap resamples: the ends of an interval then vary by a fortieth of its length."""

_FEW = 100  # examples below which the bootstrap covers less than it says
_DISTINCT = 10  # distinct scores below which it does; with one its width is zero
_FIGURE_DRAWS = 1000  # resamples of a figure that is no mean, each of which costs a pass over the rows


def score_interval(scores: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95% interval of the mean of scores in [0, 1].

    With 100 scores or more, 10 of them distinct, it is the percentile bootstrap; otherwise `bounded_mean_interval`, because the
    bootstrap of equal scores has width zero.

    Args:
        scores: a score for each example.
        seed: seed of the resampling.

    Returns:
        Lower and upper end.

    Raises:
        DataError: no score, or a score outside [0, 1].

    Example:
        >>> low, high = score_interval([0.0] * 60)
        >>> low, round(high, 3)
        (0.0, 0.06)
    """
    x = _scores(scores)
    if len(x) < _FEW or len(np.unique(x)) < _DISTINCT:
        return bounded_mean_interval(scores)
    return quantile_interval(bootstrap_means(x, seed), float(x.mean()))


def bounded_mean_interval(scores: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the interval ``{m : n KL(mean || m) <= log(2 / (1 - level))}``, valid for any scores in [0, 1].

    Args:
        scores: a score for each example.
        level: confidence level, in (0, 1).

    Returns:
        Lower and upper end.

    Raises:
        DataError: no score, or a score outside [0, 1].

    Example:
        >>> [round(end, 3) for end in bounded_mean_interval([1.0] * 100)]
        [0.964, 1.0]

    Reference: Hoeffding, "Probability inequalities for sums of bounded random variables", JASA 58 (1963), theorem 1.
    """
    x = _scores(scores)
    mean, most = float(x.mean()), math.log(2 / (1 - level)) / len(x)

    def excess(m: float) -> float:
        return _divergence(mean, m) - most

    low = 0.0 if mean == 0 or excess(0.0) <= 0 else scipy.optimize.brentq(excess, 0.0, mean, xtol=1e-12)
    high = 1.0 if mean == 1 or excess(1.0) <= 0 else scipy.optimize.brentq(excess, mean, 1.0, xtol=1e-12)
    return float(low), float(high)


def _divergence(p: float, q: float) -> float:
    """Return ``KL(p || q)`` of two coins, a large finite number where q is 0 or 1 and p is not."""
    parts = ((p, q), (1 - p, 1 - q))
    return sum(a * math.log(a / max(b, 1e-300)) for a, b in parts if a > 0)


def figure_interval(
    rows: Floats, figure: Callable[[Floats], float], seed: int = 0, draws: int = _FIGURE_DRAWS
) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of a figure of the whole data set, resampled by example.

    Args:
        rows: what the figure needs of each example, ``(N, S)``.
        figure: ``(N, S) -> number``.
        seed: seed of the resampling.
        draws: number of resamples.

    Returns:
        Lower and upper end, widened where needed to contain the figure.

    Example:
        >>> low, high = figure_interval(np.arange(200.0)[:, None] / 200, lambda rows: float(rows.mean()))
        >>> 0.44 < low < 0.4975 < high < 0.55
        True
    """
    rng = np.random.default_rng(seed)
    found = [figure(rows[rng.integers(0, len(rows), len(rows))]) for _ in range(draws)]
    return quantile_interval(np.asarray(found), figure(rows))


def mean_difference_interval(
    first: Sequence[float], second: Sequence[float], seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return the paired bootstrap interval of ``mean(second) - mean(first)`` on the same examples.

    Args:
        first: a score for each example.
        second: a score for each example, in the same order.
        seed: seed of the resampling.
        level: confidence level, in (0, 1).

    Returns:
        Lower and upper end.

    Raises:
        DataError: no score, or unequal lengths.

    Example:
        >>> mean_difference_interval([0.5, 0.5], [0.75, 0.75])
        (0.25, 0.25)
    """
    if len(first) != len(second) or not len(first):
        raise DataError(f"{len(first)} and {len(second)} scores; give one for each example to both")
    gained = np.asarray(second, float) - np.asarray(first, float)
    return quantile_interval(bootstrap_means(gained, seed), float(gained.mean()), level)


def bootstrap_means(x: Floats, seed: int = 0) -> Floats:
    """Return the means of `DRAWS` resamples.

    Args:
        x: values ``(N,)``.
        seed: seed of the resampling.

    Returns:
        Means ``(DRAWS,)``.
    """
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.choice(x, (size, len(x))).mean(1) for size in _draws_at_once(len(x))])


def quantile_interval(draws: Floats, value: float, level: float = 0.95) -> tuple[float, float]:
    """Return the outer quantiles of draws, widened where needed to contain the estimate.

    Args:
        draws: bootstrap estimates, ``(DRAWS,)``.
        value: the estimate.
        level: confidence level, in (0, 1).

    Returns:
        Lower and upper end.

    Example:
        >>> quantile_interval(np.linspace(0.0, 1.0, 41), 2.0)
        (0.025, 2.0)
    """
    outside = round((1 - level) / 2, 12)
    low, high = np.quantile(draws, [outside, 1 - outside])
    return min(float(low), value), max(float(high), value)


def _draws_at_once(n: int, limit: int = 2_000_000) -> list[int]:
    """Return numbers of draws that sum to `DRAWS`, each small enough to hold its draws of ``n`` values in memory."""
    size = max(min(DRAWS, limit // max(n, 1)), 1)
    return [min(size, DRAWS - first) for first in range(0, DRAWS, size)]


def _scores(scores: Sequence[float]) -> Floats:
    x = np.asarray(scores, float)
    if not len(x) or not bool(((x >= 0) & (x <= 1)).all()):
        raise DataError(
            f"{len(x)} scores, some outside [0, 1] or none at all; give one number in [0, 1] for each example"
        )
    return x

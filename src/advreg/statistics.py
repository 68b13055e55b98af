"""Exact statistics of counts: confidence intervals, paired tests, multiple tests, and sample sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy  # loads scipy.stats and scipy.optimize, which take a second, where they are used
from numpy.typing import NDArray

from advreg.errors import DataError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


_ALTERNATIVES = ("two-sided", "greater", "less")


def _require_counts(n: int, **counts: int) -> None:
    """Raise unless the counts are integers of 0 or more with a sum of at most ``n``.

    Raises:
        DataError: other counts.
    """
    if n < 0 or min(counts.values()) < 0 or sum(counts.values()) > n or any(k != int(k) for k in (n, *counts.values())):
        given = ", ".join(f"{name} is {count}" for name, count in counts.items())
        together = " together" if len(counts) > 1 else ""
        raise DataError(f"{given} of n = {n}; give counts of 0 or more, at most n{together}")


def _require_shares(**shares: float) -> None:
    """Raise unless every share is above 0 and below 1.

    Raises:
        DataError: the first share that is not.
    """
    for name, share in shares.items():
        if not 0 < share < 1:
            raise DataError(f"{name} is {share}; give a share above 0 and below 1, such as 0.95")


def clopper_pearson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact confidence interval of a proportion.

    Args:
        successes: number of successes among ``n``.
        n: number of trials; the interval is (0, 1) if it is 0.
        level: confidence level, in (0, 1).

    Returns:
        Lower and upper end.

    Raises:
        DataError: invalid counts, or a level outside (0, 1).

    Example:
        >>> low, high = clopper_pearson_interval(95, 100)
        >>> round(low, 4), round(high, 4)
        (0.8872, 0.9836)

    Reference: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26 (1934).
    """
    _require_counts(n, successes=successes)
    _require_shares(level=level)
    if n == 0:
        return 0.0, 1.0
    tail, misses = (1 - level) / 2, n - successes
    low = scipy.special.betaincinv(successes, misses + 1, tail) if successes else 0.0
    high = scipy.special.betaincinv(successes + 1, misses, 1 - tail) if misses else 1.0
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int, alternative: str = "two-sided") -> float:
    """Return the p-value of the exact McNemar test on the pairs in which two models disagree.

    Args:
        only_first: number of examples that only the first model classifies correctly.
        only_second: number of examples that only the second classifies correctly.
        alternative: ``"two-sided"``, ``"greater"`` (the first model is better) or ``"less"`` (the second is better).

    Returns:
        The p-value; 1 where the models never disagree.

    Raises:
        DataError: negative counts, or another alternative.

    Example:
        >>> mcnemar(8, 2)
        0.109375

    Reference: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947).
    """
    _require_counts(only_first + only_second, only_first=only_first, only_second=only_second)
    if alternative not in _ALTERNATIVES:
        raise DataError(f"alternative is {alternative!r}; give one of {', '.join(_ALTERNATIVES)}")
    if only_first + only_second == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_first, only_first + only_second, 0.5, alternative).pvalue)


def noninferiority(only_first: int, only_second: int, n: int, margin: float) -> float:
    """Return the exact p-value of ``accuracy(second) <= accuracy(first) - margin``, on the same ``n`` examples.

    It is ``max over q of P(Z >= z)``: pairs have ``P(only first right) = q + margin`` and ``P(only second right) = q``, the
    boundary of the hypothesis, and the score statistic ``Z`` orders them. A small p-value means: the second is not worse by
    the margin.

    Args:
        only_first: number of examples that only the first model classifies correctly.
        only_second: number of examples that only the second classifies correctly.
        n: number of examples in all.
        margin: largest accepted loss of accuracy, in (0, 1).

    Returns:
        The p-value; 1 if ``n`` is 0.

    Raises:
        DataError: invalid counts, or a margin outside (0, 1).

    Example:
        >>> round(noninferiority(0, 0, 500, 0.01), 4)
        0.0127
        >>> noninferiority(20, 0, 500, 0.01) > 0.9
        True

    Reference: Nam, "Establishing equivalence of two treatments and sample size requirements in matched-pairs design",
    Biometrics 53 (1997); Sidik, "Exact unconditional tests for testing non-inferiority in matched-pairs design", Statistics
    in Medicine 22 (2003).
    """
    _require_counts(n, only_first=only_first, only_second=only_second)
    _require_shares(margin=margin)
    if n == 0:
        return 1.0
    seen = float(_score(np.array([only_first]), np.array([only_second]), n, margin)[0])
    least = _critical_counts(seen, n, margin)

    def tail(q: float) -> float:
        low, high = scipy.stats.binom.interval(1 - 1e-13, n, min(q + margin, 1.0))
        first = np.arange(int(max(low, 0)), int(high) + 1)
        rest = min(q / (1 - q - margin), 1.0) if q + margin < 1 else 0.0
        inside = scipy.stats.binom.sf(least[first] - 1, n - first, rest)
        return float(np.sum(scipy.stats.binom.pmf(first, n, q + margin) * inside))

    top = (1 - margin) / 2
    grid = top * np.linspace(0, 1, 100) ** 3  # compared models rarely disagree, so the grid is dense near 0
    values = [tail(float(q)) for q in grid]
    k = int(np.argmax(values))
    around = (float(grid[max(k - 1, 0)]), float(grid[min(k + 1, len(grid) - 1)]))
    found = scipy.optimize.minimize_scalar(lambda q: -tail(q), bounds=around, method="bounded")
    return float(min(max(values[k], -float(found.fun)), 1.0))


def _score(first: Counts, second: Counts, n: int, margin: float) -> Floats:
    """Return the score statistic of ``accuracy(second) = accuracy(first) - margin``; it rises with the second."""
    b, c = np.asarray(first, float), np.asarray(second, float)
    middle = b + c - margin * (2 * n - b + c)
    q = (middle + np.sqrt(middle**2 + 8 * n * c * margin * (1 - margin))) / (
        4 * n
    )  # maximum-likelihood q on the boundary
    variance = n * (2 * np.maximum(q, 0) + margin * (1 - margin))
    return np.asarray((c - b + n * margin) / np.sqrt(np.maximum(variance, 1e-300)))


def _critical_counts(seen: float, n: int, margin: float) -> Counts:
    """Return for each count 0..n of the first the least count of the second whose score reaches ``seen``."""
    first = np.arange(n + 1)
    low, high = np.zeros(n + 1, dtype=np.int64), n - first + 1  # n - first + 1: no count reaches it
    while bool(np.any(low < high)):
        middle = (low + high) // 2
        reaches = _score(first, middle, n, margin) >= seen - 1e-9
        low, high = np.where(reaches | (low >= high), low, middle + 1), np.where(reaches, middle, high)
    return low


def tango_interval(only_first: int, only_second: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of ``accuracy(second) - accuracy(first)``, measured on the same ``n`` examples.

    Args:
        only_first: number of examples that only the first model classifies correctly.
        only_second: number of examples that only the second classifies correctly.
        n: number of examples in all.
        level: confidence level, in (0, 1).

    Returns:
        Lower and upper end.

    Raises:
        DataError: invalid counts, or a level outside (0, 1).

    Example:
        >>> low, high = tango_interval(12, 30, 1000)
        >>> round(low, 4), round(high, 4)
        (0.0056, 0.0318)

    Reference: Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998).
    """
    _require_counts(n, only_first=only_first, only_second=only_second)
    _require_shares(level=level)
    if n == 0:
        return -1.0, 1.0
    return -_largest_not_rejected(only_second, only_first, n, level), _largest_not_rejected(
        only_first, only_second, n, level
    )


def _largest_not_rejected(first: int, second: int, n: int, level: float) -> float:
    """Return the largest ``accuracy(second) - accuracy(first)`` that the score test does not reject."""
    limit = float(scipy.special.ndtri((1 + level) / 2))

    def above(difference: float) -> float:
        if difference >= 0:  # the same hypothesis with exchanged models
            return float(_score(np.array([second]), np.array([first]), n, difference)[0]) - limit
        return -float(_score(np.array([first]), np.array([second]), n, -difference)[0]) - limit

    start = (second - first) / n
    if above(1 - 1e-9) < 0:
        return 1.0
    return float(scipy.optimize.brentq(above, start, 1 - 1e-9, xtol=1e-10)) if above(start) < 0 else start


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple tests, each of which may be compared with the level of a single test.

    Args:
        p_values: the p-values of all tests.

    Returns:
        Adjusted p-values in the given order.

    Raises:
        DataError: a value outside [0, 1].

    Example:
        >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]

    Reference: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise DataError(f"a p-value is {p}; give values from 0 to 1")
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    adjusted, worst = [1.0] * len(p_values), 0.0
    for rank, k in enumerate(order):
        worst = max(worst, min((len(p_values) - rank) * p_values[k], 1.0))
        adjusted[k] = worst
    return adjusted


def minimum_detectable_difference(
    n: int, discordant: float, *, alpha: float = 0.05, power: float = 0.8, sides: int = 2
) -> float:
    """Return the smallest difference of two accuracies that McNemar's test on ``n`` examples detects with this power.

    It is the ``delta`` with ``n delta^2 = (z(alpha) sqrt(d) + z(power) sqrt(d - delta^2))^2``, or ``d`` itself if there is
    none.

    Args:
        n: number of examples.
        discordant: share ``d`` of them on which exactly one of the two models is right.
        alpha: level of the test.
        power: probability to detect a difference of this size.
        sides: 1 or 2.

    Returns:
        The difference, in (0, 1]; 1 where no difference can be detected.

    Raises:
        DataError: an invalid share, number of examples, or number of sides.

    Example:
        >>> [round(100 * minimum_detectable_difference(1000, d), 1) for d in (0.05, 0.1, 0.2)]
        [2.0, 2.8, 4.0]

    Reference: Connor, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43
    (1987).
    """
    _require_counts(n, examples=0)
    _require_test_options(discordant, alpha, power, sides)
    if n < 1 or discordant <= 0:
        return 1.0

    def excess(delta: float) -> float:
        return n * delta**2 - _required_square(delta, discordant, alpha, power, sides)

    if excess(discordant) < 0:
        return discordant
    return float(scipy.optimize.brentq(excess, 0.0, discordant, xtol=1e-12))


def sample_size(
    difference: float, discordant: float, *, alpha: float = 0.05, power: float = 0.8, sides: int = 2
) -> int:
    """Return how many examples McNemar's test needs to detect a difference with this power.

    Args:
        difference: difference of the two accuracies.
        discordant: share of the examples on which exactly one of the two models is right.
        alpha: level of the test.
        power: probability to detect the difference.
        sides: 1 or 2.

    Returns:
        The number of examples.

    Raises:
        DataError: a difference that is not above 0 and at most ``discordant``, or an invalid share or number of sides.

    Example:
        >>> sample_size(0.02, 0.05)
        979

    Reference: Connor, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43
    (1987).
    """
    _require_test_options(discordant, alpha, power, sides)
    if not 0 < difference <= discordant:
        raise DataError(
            f"difference is {difference}, discordant {discordant}; two accuracies differ by no more than the share on which "
            "the models disagree: give 0 < difference <= discordant"
        )
    return math.ceil(_required_square(difference, discordant, alpha, power, sides) / difference**2)


def _require_test_options(discordant: float, alpha: float, power: float, sides: int) -> None:
    _require_shares(alpha=alpha, power=power)
    if not 0 <= discordant <= 1:
        raise DataError(f"discordant is {discordant}; give the share of examples on which one model is right, 0 to 1")
    if sides not in (1, 2):
        raise DataError(f"sides is {sides}; give 1 or 2")


def _required_square(delta: float, discordant: float, alpha: float, power: float, sides: int) -> float:
    reject, see = scipy.special.ndtri(1 - alpha / sides), scipy.special.ndtri(power)
    return float((reject * math.sqrt(discordant) + see * math.sqrt(max(discordant - delta**2, 0.0))) ** 2)

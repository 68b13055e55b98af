"""Exact statistics of counts: intervals and paired tests."""

from __future__ import annotations

from scipy import stats


def interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson) confidence interval of a proportion.

    Args:
        successes: how many of ``n``.
        n: how many were looked at; with none, nothing is known: (0, 1).
        level: confidence.

    Example:
        >>> low, high = interval(95, 100)
        >>> round(low, 4), round(high, 4)
        (0.8872, 0.9836)
    """
    if n == 0:
        return 0.0, 1.0
    found = stats.binomtest(successes, n).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)


def mcnemar(only_first: int, only_second: int, alternative: str = "two-sided") -> float:
    """Return the p-value of the exact McNemar test on the pairs in which two models disagree.

    Args:
        only_first: examples that only the first model gets right.
        only_second: examples that only the second gets right.
        alternative: ``"two-sided"``, or ``"greater"`` to ask whether the first is better.

    Example:
        >>> mcnemar(8, 2)
        0.109375
    """
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5, alternative).pvalue)

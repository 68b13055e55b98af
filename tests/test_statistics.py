"""Intervals that cover, and tests equal to their definition."""

from __future__ import annotations

from math import comb

import pytest
from scipy import stats

from advreg.statistics import interval, mcnemar


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (950, 1000)])
def test_clopper_pearson_equals_its_definition_by_the_beta_distribution(k: int, n: int) -> None:
    low, high = interval(k, n)
    assert low == pytest.approx(stats.beta.ppf(0.025, k, n - k + 1) if k else 0.0, abs=1e-9)
    assert high == pytest.approx(stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0, abs=1e-9)


def test_coverage_is_never_below_the_level() -> None:
    n = 40
    limits = [interval(k, n) for k in range(n + 1)]
    for p in (0.01, 0.2, 0.5, 0.93):
        covered = sum(stats.binom.pmf(k, n, p) for k, (low, high) in enumerate(limits) if low <= p <= high)
        assert covered >= 0.95


def test_nothing_seen_nothing_known() -> None:
    assert interval(0, 0) == (0.0, 1.0)
    assert mcnemar(0, 0) == 1.0


def test_mcnemar_is_a_fair_coin() -> None:
    tail = sum(comb(10, k) for k in range(8, 11)) / 2**10
    assert mcnemar(8, 2, "greater") == pytest.approx(tail)
    assert mcnemar(8, 2) == pytest.approx(2 * tail)

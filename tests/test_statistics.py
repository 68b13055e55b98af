"""Intervals that cover, and tests equal to their definition."""

from __future__ import annotations

from functools import cache
from math import comb

import numpy as np
import pytest
from scipy import stats

from advreg.errors import DataError
from advreg.statistics import (
    clopper_pearson_interval,
    holm,
    mcnemar,
    minimum_detectable_difference,
    noninferiority,
    sample_size,
    tango_interval,
)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (950, 1000)])
def test_clopper_pearson_equals_beta_quantiles(k: int, n: int) -> None:
    low, high = clopper_pearson_interval(k, n)
    assert low == pytest.approx(stats.beta.ppf(0.025, k, n - k + 1) if k else 0.0, abs=1e-9)
    assert high == pytest.approx(stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0, abs=1e-9)


def test_coverage_is_never_below_the_level() -> None:
    n = 40
    limits = [clopper_pearson_interval(k, n) for k in range(n + 1)]
    for p in (0.01, 0.2, 0.5, 0.93):
        covered = sum(stats.binom.pmf(k, n, p) for k, (low, high) in enumerate(limits) if low <= p <= high)
        assert covered >= 0.95


def test_interval_of_no_trials_is_0_to_1() -> None:
    assert clopper_pearson_interval(0, 0) == (0.0, 1.0)
    assert mcnemar(0, 0) == 1.0


def test_mcnemar_equals_the_binomial_test() -> None:
    tail = sum(comb(10, k) for k in range(8, 11)) / 2**10
    assert mcnemar(8, 2, "greater") == pytest.approx(tail)
    assert mcnemar(8, 2) == pytest.approx(2 * tail)


@cache
def _accepts(n: int, margin: float) -> tuple[tuple[int, int, float], ...]:
    return tuple((b, c, noninferiority(b, c, n, margin)) for b in range(n + 1) for c in range(n + 1 - b))


def _chance(b: int, c: int, n: int, p10: float, p01: float) -> float:
    return float(stats.multinomial.pmf([b, c, n - b - c], n, [p10, p01, 1 - p10 - p01]))


@pytest.mark.parametrize("q", [0.0, 0.01, 0.05, 0.2, 0.35])
def test_noninferiority_keeps_its_level(q: float) -> None:
    n, margin = 12, 0.2
    size = sum(_chance(b, c, n, q + margin, q) for b, c, p in _accepts(n, margin) if p <= 0.05)
    assert size <= 0.05 + 1e-6
    assert q != 0.05 or size > 0.01  # and the test does not always reject


def test_noninferiority_is_at_least_the_chance_of_no_loss() -> None:
    assert noninferiority(0, 0, 300, 0.01) >= 0.99**300
    assert noninferiority(0, 0, 0, 0.01) == 1.0


def test_noninferiority_falls_with_gains_and_rises_with_losses() -> None:
    p = {(b, c): value for b, c, value in _accepts(12, 0.2)}
    assert all(p[b + 1, c] >= p[b, c] - 1e-9 for b, c in p if (b + 1, c) in p)
    assert all(p[b, c + 1] <= p[b, c] + 1e-9 for b, c in p if (b, c + 1) in p)


def test_paired_interval_ends_where_the_score_test_just_rejects() -> None:
    b, c, n = 12, 30, 400

    def log_likelihood(p10: float, p01: float) -> float:
        return b * np.log(p10) + c * np.log(p01) + (n - b - c) * np.log(1 - p10 - p01)

    for limit in tango_interval(b, c, n):
        p10 = np.linspace(max(1e-6, -limit + 1e-6), 0.4, 400_001)
        likely = p10[np.argmax(log_likelihood(p10, p10 + limit))]  # by brute force, not by the closed form
        variance = n * (2 * likely + limit - limit**2)
        assert abs(c - b - n * limit) / np.sqrt(variance) == pytest.approx(1.96, abs=2e-3)


def test_paired_interval_of_equal_and_opposite_models() -> None:
    low, high = tango_interval(7, 7, 200)
    assert low == pytest.approx(-high)
    assert tango_interval(0, 5, 5)[1] == 1.0
    assert tango_interval(0, 0, 0) == (-1.0, 1.0)


def test_holm_equals_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(0, 0.2, 5)
        ranked = np.sort(p)
        first = next((k for k in range(5) if ranked[k] > 0.05 / (5 - k)), 5)  # stepping down stops at the first failure
        assert sum(q <= 0.05 for q in holm(list(p))) == first


@pytest.mark.parametrize(
    ("n", "points"),
    [(500, (2.8, 4.0, 5.6)), (1000, (2.0, 2.8, 4.0)), (5000, (0.9, 1.3, 1.8)), (10_000, (0.6, 0.9, 1.3))],
)
def test_detectable_difference_equals_the_published_formula(n: int, points: tuple[float, ...]) -> None:
    found = [round(100 * minimum_detectable_difference(n, d), 1) for d in (0.05, 0.1, 0.2)]
    assert found == list(points)
    assert all(sample_size(minimum_detectable_difference(n, d), d) == pytest.approx(n, abs=1) for d in (0.05, 0.1, 0.2))


def test_exact_test_has_about_the_stated_power() -> None:
    n, d = 1000, 0.1
    delta = minimum_detectable_difference(n, d, sides=1)
    better = (d + delta) / 2
    power = 0.0
    for pairs in range(n + 1):
        if (chance := stats.binom.pmf(pairs, n, d)) > 1e-12:
            k = np.arange(pairs + 1)
            rejects = stats.binom.sf(k - 1, pairs, 0.5) <= 0.05
            power += chance * float(np.sum(stats.binom.pmf(k, pairs, better / d)[rejects]))
    assert 0.75 < power < 0.82
    assert minimum_detectable_difference(0, 0.1) == 1.0
    assert minimum_detectable_difference(10, 0.05) == 0.05  # no difference that ten examples could show


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: clopper_pearson_interval(11, 10), "successes is 11 of n = 10; give counts of 0 or more, at most n"),
        (lambda: clopper_pearson_interval(-1, 10), "successes is -1"),
        (lambda: clopper_pearson_interval(0, -1), "n = -1"),
        (lambda: clopper_pearson_interval(2.5, 10), "successes is 2.5"),
        (lambda: clopper_pearson_interval(5, 10, level=95), "level is 95; give a share above 0 and below 1"),
        (lambda: clopper_pearson_interval(5, 10, level=float("nan")), "level is nan"),
        (lambda: mcnemar(-1, 3), "only_first is -1"),
        (lambda: mcnemar(1, 3, "bigger"), "alternative is 'bigger'; give one of two-sided, greater, less"),
        (lambda: noninferiority(7, 6, 10, 0.1), "at most n together"),
        (lambda: noninferiority(1, 2, 10, 0.0), "margin is 0.0"),
        (lambda: noninferiority(1, 2, -10, 0.1), "n = -10"),
        (lambda: tango_interval(7, 6, 10), "at most n together"),
        (lambda: tango_interval(1, 2, 10, level=1.0), "level is 1.0"),
        (lambda: holm([0.5, 1.5]), "a p-value is 1.5; give values from 0 to 1"),
        (lambda: holm([float("nan")]), "a p-value is nan"),
        (lambda: minimum_detectable_difference(-5, 0.1), "n = -5"),
        (lambda: minimum_detectable_difference(100, 1.5), "discordant is 1.5"),
        (lambda: minimum_detectable_difference(100, 0.1, alpha=5), "alpha is 5"),
        (lambda: minimum_detectable_difference(100, 0.1, sides=3), "sides is 3; give 1 or 2"),
        (lambda: sample_size(0.0, 0.1), "difference is 0.0"),
        (lambda: sample_size(0.2, 0.1), "give 0 < difference <= discordant"),
        (lambda: sample_size(0.02, 0.1, power=80), "power is 80"),
    ],
)
def test_values_out_of_range_raise_one_line(call, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)

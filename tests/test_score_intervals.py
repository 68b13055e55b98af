"""Laws of intervals of bounded scores: coverage, known values, and no interval of width zero."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from advreg.errors import DataError
from advreg.score_intervals import bounded_mean_interval, figure_interval, mean_difference_interval, score_interval


@pytest.mark.parametrize("p", [0.02, 0.3, 0.95])
def test_the_bounded_interval_covers_coins(p: float) -> None:
    n, covered = 60, 0.0
    for hits in range(n + 1):
        low, high = bounded_mean_interval([1.0] * hits + [0.0] * (n - hits))
        covered += stats.binom.pmf(hits, n, p) if low <= p <= high else 0.0
    assert covered >= 0.95


def test_equal_scores_have_an_interval() -> None:
    low, high = score_interval([0.0] * 60)
    assert low == 0.0
    assert high == pytest.approx(1 - np.exp(-np.log(40) / 60), abs=1e-6)
    assert score_interval([0.5] * 1000)[1] > 0.53


def test_many_scores_have_the_interval_of_the_bootstrap() -> None:
    scores = np.random.default_rng(0).beta(4, 2, 400)
    low, high = score_interval(scores.tolist())
    half = 1.96 * scores.std() / 20
    assert high - low == pytest.approx(2 * half, rel=0.1)
    assert (low + high) / 2 == pytest.approx(scores.mean(), abs=0.1 * half)
    assert score_interval(scores.tolist()) == (low, high)


def test_the_bootstrap_of_a_mean_covers() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for k in range(200):
        low, high = score_interval(rng.beta(4, 2, 120).tolist(), seed=k)
        inside += low <= 2 / 3 <= high
    assert inside >= 180


def test_a_figure_is_resampled_by_example() -> None:
    rows = np.random.default_rng(2).random((300, 1))
    low, high = figure_interval(rows, lambda part: float(np.median(part)))
    assert low < float(np.median(rows)) < high
    assert 0.05 < high - low < 0.3


def test_paired_scores_differ_by_less_than_their_spread() -> None:
    first = np.random.default_rng(3).random(200)
    low, high = mean_difference_interval(first.tolist(), (first + 0.01).tolist())
    assert low == pytest.approx(0.01)
    assert high == pytest.approx(0.01)


@pytest.mark.parametrize("scores", [[], [0.5, 1.5], [float("nan")]])
def test_scores_outside_the_unit_interval_are_rejected(scores: list[float]) -> None:
    with pytest.raises(DataError, match="outside"):
        score_interval(scores)

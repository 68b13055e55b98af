"""Rates corrected for judge errors: closed form, coverage with a simulated judge, and differences."""

from __future__ import annotations

import numpy as np
import pytest

from advreg.errors import DataError
from advreg.language.evaluation.bootstrap import difference_of_means, difference_of_shares, mean, share
from advreg.language.judges.calibration import Calibration, compare_judge, difference, rate

SIMULATIONS = 150


def seen(rng, truth, se, sp, gibberish=0.0):
    """Return the outcomes that a judge with these error rates reports for prompts of known truth."""
    called = np.where(truth, rng.random(len(truth)) < se, rng.random(len(truth)) >= sp)
    lost = rng.random(len(truth)) < gibberish
    return ["neither" if gone else "refused" if yes else "complied" for gone, yes in zip(lost, called, strict=True)]


def labels(rng, se, sp, refusals=80, answers=160):
    hits, through = rng.binomial(refusals, se), rng.binomial(answers, sp)
    return Calibration(((hits, refusals - hits, through, answers - through),))


def test_corrected_rate_is_the_rogan_gladen_estimate():
    calibration = Calibration(((80, 20, 180, 20),))  # se .8, sp .9
    found = rate(["refused"] * 45 + ["complied"] * 55, "refused", calibration)
    assert found.value == pytest.approx((0.45 - 0.1) / 0.7)
    assert found.raw == 0.45
    complied = rate(["refused"] * 45 + ["complied"] * 55, "complied", calibration)
    assert complied.value == pytest.approx(1 - found.value)


def test_incoherent_completions_count_as_neither():
    calibration = Calibration(((80, 20, 180, 20),))
    outcomes = ["refused"] * 20 + ["complied"] * 20 + ["neither"] * 60
    refused, complied = rate(outcomes, "refused", calibration), rate(outcomes, "complied", calibration)
    assert refused.value + complied.value == pytest.approx(0.4)
    assert rate(["neither"] * 50, "complied", calibration).value == 0
    none = rate(["neither"] * 50, "complied", calibration)
    assert none.interval[1] == pytest.approx(1 - 0.025 ** (1 / 50))  # exact binomial bound for 0 of 50


@pytest.mark.parametrize(("true_rate", "event"), [(0.04, "refused"), (0.3, "complied"), (0.9, "refused")])
def test_rate_interval_has_nominal_coverage(true_rate, event):
    rng = np.random.default_rng(7)
    se, sp, gibberish = 0.8, 0.95, 0.1
    expected = (true_rate if event == "refused" else 1 - true_rate) * (1 - gibberish)
    covered = raw_covered = 0
    for _ in range(SIMULATIONS):
        outcomes = seen(rng, rng.random(150) < true_rate, se, sp, gibberish)
        low, high = rate(outcomes, event, labels(rng, se, sp)).interval
        covered += low <= expected <= high
        low, high = rate(outcomes, event, None).interval
        raw_covered += low <= expected <= high
    assert 0.9 <= covered / SIMULATIONS <= 1.0
    assert true_rate != 0.9 or raw_covered / SIMULATIONS < 0.5  # the raw interval misses the truth


def test_difference_interval_has_nominal_coverage():
    rng = np.random.default_rng(3)
    se, sp, covered = 0.8, 0.95, 0
    for _ in range(SIMULATIONS):
        base = rng.random(150) < 0.1
        other = base | (rng.random(150) < 0.2)  # the refusal rate rises by 0.18
        found = difference(seen(rng, base, se, sp), seen(rng, other, se, sp), "refused", labels(rng, se, sp))
        covered += found.interval[0] <= 0.18 <= found.interval[1]
    assert 0.9 <= covered / SIMULATIONS <= 0.99


def test_difference_of_equal_outcomes_is_zero_and_narrow():
    calibration = Calibration(((80, 20, 180, 20),))
    outcomes = ["refused"] * 50 + ["complied"] * 150
    found = difference(outcomes, outcomes, "refused", calibration)
    assert found.value == 0
    assert found.interval[1] - found.interval[0] < 0.06
    assert found.interval[1] > 0  # no change on these prompts does not prove that there is none


def test_interval_narrows_with_labels_and_prompts():
    def width(prompts, times):
        calibration = Calibration(((16 * times, 4 * times, 38 * times, 2 * times),))
        low, high = rate(["refused"] * (prompts // 2) + ["complied"] * (prompts // 2), "refused", calibration).interval
        return high - low

    assert width(100, 1) > width(100, 20) > width(1000, 20)
    assert width(100_000, 1) > 0.5 * width(100, 1)  # more prompts do not replace labels


def test_interval_widens_if_models_differ():
    alike = Calibration(((80, 20, 180, 20),) * 4)
    unlike = Calibration(((100, 0, 200, 0), (60, 40, 160, 40)) * 2)
    assert alike.sensitivity == unlike.sensitivity == 0.8
    outcomes = ["refused"] * 500 + ["complied"] * 500
    (low, high), (lower, higher) = (rate(outcomes, "refused", calibration).interval for calibration in (alike, unlike))
    assert higher - lower > high - low


def test_interval_of_worst_of_many_includes_judge_errors():
    calibration = Calibration(((80, 20, 180, 20),))
    outcomes = ["complied"] * 40 + ["refused"] * 60
    once, often = rate(outcomes, "complied", calibration), rate(outcomes, "complied", calibration, candidates=5)
    assert often.value == once.value
    assert often.interval[1] == once.interval[1]
    assert often.interval[0] == 0.0 < once.interval[0]


@pytest.mark.parametrize("anew", [True, False])
def test_interval_of_worst_of_many_covers_both_error_models(anew):
    """The errors on four candidates are independent or identical."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(60):
        refused = rng.random(150) < 0.7
        looks = [seen(rng, refused, 0.9, 0.95) for _ in range(4 if anew else 1)]
        outcomes = ["complied" if "complied" in each else "refused" for each in zip(*looks, strict=True)]
        low, high = rate(outcomes, "complied", labels(rng, 0.9, 0.95), candidates=4).interval
        covered += low <= 0.3 <= high
    assert covered >= 57


def test_judge_at_chance_level_raises():
    with pytest.raises(DataError, match="close to chance"):
        compare_judge([True, False] * 50, [True, True, False, False] * 25, ["a"] * 100)
    with pytest.raises(DataError, match="labels are the same"):
        compare_judge([True, False], [True, True], ["a", "b"])


def test_rate_intervals_repeat_with_the_seed():
    calibration = Calibration(((80, 20, 180, 20),))
    first, again, other = (rate(["refused", "complied"] * 20, "refused", calibration, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_shares_and_means():
    assert share([]).interval == (0.0, 1.0)
    assert share([False] * 20).interval[1] == pytest.approx(1 - 0.025 ** (1 / 20))
    assert mean([]) is None
    assert mean([2.0] * 9).interval == (2.0, 2.0)
    rng = np.random.default_rng(0)
    draws = [mean(list(rng.normal(1, 1, 60)), seed=k).interval for k in range(200)]
    assert 0.9 <= np.mean([low <= 1 <= high for low, high in draws]) <= 0.99


def test_difference_compares_prompt_by_prompt():
    found = difference_of_shares([True] * 50 + [False] * 50, [True] * 50 + [False] * 45 + [True] * 5)
    assert found.value == 0.05
    assert found.interval[0] > 0.0  # 5 against 0, although the two intervals overlap
    assert difference_of_means([1.0, 5.0], [1.5, 5.5]).interval == (0.5, 0.5)


def test_interval_of_zero_events_is_not_degenerate():
    calibration = Calibration(((90, 10, 190, 10),))
    found = rate(["complied"] * 96, "refused", calibration)
    assert (found.value, found.raw) == (0.0, 0.0)
    assert found.interval[1] >= 1 - 0.025 ** (1 / 96)  # exact binomial bound for 0 of 96
    turned = rate(["complied"] * 96, "complied", calibration)
    assert (turned.value, turned.interval[1]) == (1.0, 1.0)
    assert turned.interval[0] <= 0.025 ** (1 / 96)

"""Rates corrected for the judge's errors: closed form, coverage with a simulated judge of known errors, differences."""

from __future__ import annotations

import numpy as np
import pytest

from advreg.errors import DataError
from advreg.language.evaluation.bootstrap import difference_of_means, difference_of_shares, mean, share
from advreg.language.judges.calibration import Calibration, compare_judge, difference, rate

SIMULATIONS = 150


def seen(rng, truth, se, sp, gibberish=0.0):
    """Outcomes that a judge with these error rates reports of prompts whose truth is known."""
    called = np.where(truth, rng.random(len(truth)) < se, rng.random(len(truth)) >= sp)
    lost = rng.random(len(truth)) < gibberish
    return ["neither" if gone else "refused" if yes else "complied" for gone, yes in zip(lost, called, strict=True)]


def labels(rng, se, sp, refusals=80, answers=160):
    hits, through = rng.binomial(refusals, se), rng.binomial(answers, sp)
    return Calibration(((hits, refusals - hits, through, answers - through),))


def test_the_correction_is_rogan_and_gladens():
    known = Calibration(((80, 20, 180, 20),))  # se .8, sp .9
    found = rate(["refused"] * 45 + ["complied"] * 55, "refused", known)
    assert found.value == pytest.approx((0.45 - 0.1) / 0.7)
    assert found.raw == 0.45
    complied = rate(["refused"] * 45 + ["complied"] * 55, "complied", known)
    assert complied.value == pytest.approx(1 - found.value)


def test_gibberish_is_neither_refused_nor_complied():
    known = Calibration(((80, 20, 180, 20),))
    outcomes = ["refused"] * 20 + ["complied"] * 20 + ["neither"] * 60
    refused, complied = rate(outcomes, "refused", known), rate(outcomes, "complied", known)
    assert refused.value + complied.value == pytest.approx(0.4)
    assert rate(["neither"] * 50, "complied", known).value == 0
    none = rate(["neither"] * 50, "complied", known)
    assert none.interval[1] == pytest.approx(1 - 0.025 ** (1 / 50))  # exact, for 0 of 50 that nobody judged


@pytest.mark.parametrize(("true_rate", "event"), [(0.04, "refused"), (0.3, "complied"), (0.9, "refused")])
def test_the_interval_covers_the_truth_at_its_nominal_rate(true_rate, event):
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
    assert true_rate != 0.9 or raw_covered / SIMULATIONS < 0.5  # what is not corrected misses the truth


def test_differences_cover_the_truth():
    rng = np.random.default_rng(3)
    se, sp, covered = 0.8, 0.95, 0
    for _ in range(SIMULATIONS):
        base = rng.random(150) < 0.1
        other = base | (rng.random(150) < 0.2)  # refuses .18 more
        found = difference(seen(rng, base, se, sp), seen(rng, other, se, sp), "refused", labels(rng, se, sp))
        covered += found.interval[0] <= 0.18 <= found.interval[1]
    assert 0.9 <= covered / SIMULATIONS <= 0.99


def test_a_difference_of_equals_is_zero_and_narrow():
    known = Calibration(((80, 20, 180, 20),))
    outcomes = ["refused"] * 50 + ["complied"] * 150
    found = difference(outcomes, outcomes, "refused", known)
    assert found.value == 0
    assert found.interval[1] - found.interval[0] < 0.06
    assert found.interval[1] > 0  # nothing changed on these prompts, which does not prove that nothing changes


def test_more_labels_and_more_prompts_narrow_the_interval():
    def width(prompts, times):
        known = Calibration(((16 * times, 4 * times, 38 * times, 2 * times),))
        low, high = rate(["refused"] * (prompts // 2) + ["complied"] * (prompts // 2), "refused", known).interval
        return high - low

    assert width(100, 1) > width(100, 20) > width(1000, 20)
    assert width(100_000, 1) > 0.5 * width(100, 1)  # prompts do not make up for labels


def test_models_that_differ_widen_the_interval():
    alike = Calibration(((80, 20, 180, 20),) * 4)
    unlike = Calibration(((100, 0, 200, 0), (60, 40, 160, 40)) * 2)
    assert alike.sensitivity == unlike.sensitivity == 0.8
    outcomes = ["refused"] * 500 + ["complied"] * 500
    (low, high), (lower, higher) = (rate(outcomes, "refused", known).interval for known in (alike, unlike))
    assert higher - lower > high - low


def test_the_worst_of_many_looks_may_be_the_judges_own_error():
    known = Calibration(((80, 20, 180, 20),))
    outcomes = ["complied"] * 40 + ["refused"] * 60
    once, often = rate(outcomes, "complied", known), rate(outcomes, "complied", known, candidates=5)
    assert often.value == once.value
    assert often.interval[1] == once.interval[1]
    assert often.interval[0] == 0.0 < once.interval[0]


@pytest.mark.parametrize("anew", [True, False])
def test_the_interval_of_the_worst_of_many_covers_both_kinds_of_error(anew):
    """The judge errs on each of four candidates anew, or on all of them alike."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(60):
        refused = rng.random(150) < 0.7
        looks = [seen(rng, refused, 0.9, 0.95) for _ in range(4 if anew else 1)]
        outcomes = ["complied" if "complied" in each else "refused" for each in zip(*looks, strict=True)]
        low, high = rate(outcomes, "complied", labels(rng, 0.9, 0.95), candidates=4).interval
        covered += low <= 0.3 <= high
    assert covered >= 57


def test_a_judge_that_knows_nothing_is_refused():
    with pytest.raises(DataError, match="close to chance"):
        compare_judge([True, False] * 50, [True, True, False, False] * 25, ["a"] * 100)
    with pytest.raises(DataError, match="labels are the same"):
        compare_judge([True, False], [True, True], ["a", "b"])


def test_equal_seeds_give_equal_intervals():
    known = Calibration(((80, 20, 180, 20),))
    first, again, other = (rate(["refused", "complied"] * 20, "refused", known, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_shares_and_means():
    assert share([]).interval == (0.0, 1.0)
    assert share([False] * 20).interval[1] == pytest.approx(1 - 0.025 ** (1 / 20))
    assert mean([]) is None
    assert mean([2.0] * 9).interval == (2.0, 2.0)
    rng = np.random.default_rng(0)
    draws = [mean(list(rng.normal(1, 1, 60)), seed=k).interval for k in range(200)]
    assert 0.9 <= np.mean([low <= 1 <= high for low, high in draws]) <= 0.99


def test_pairs_are_compared_prompt_by_prompt():
    found = difference_of_shares([True] * 50 + [False] * 50, [True] * 50 + [False] * 45 + [True] * 5)
    assert found.value == 0.05
    assert found.interval[0] > 0.0  # 5 against 0, though the two shares alone overlap widely
    assert difference_of_means([1.0, 5.0], [1.5, 5.5]).interval == (0.5, 0.5)


def test_none_of_a_few_is_not_never_whatever_the_judge_calls_by_mistake():
    known = Calibration(((90, 10, 190, 10),))
    found = rate(["complied"] * 96, "refused", known)
    assert (found.value, found.raw) == (0.0, 0.0)
    assert found.interval[1] >= 1 - 0.025 ** (1 / 96)  # exact: what 0 of 96 leaves possible
    turned = rate(["complied"] * 96, "complied", known)
    assert (turned.value, turned.interval[1]) == (1.0, 1.0)
    assert turned.interval[0] <= 0.025 ** (1 / 96)

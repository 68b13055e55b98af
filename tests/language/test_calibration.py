"""Rates with the judge's errors: closed forms, coverage on simulated and on labelled models, differences, looks."""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from advreg.errors import DataError
from advreg.language.datasets import LabelledCompletion, read_labelled
from advreg.language.evaluation.bootstrap import difference_of_means, difference_of_shares, mean, share
from advreg.language.judges import coherent, words_judge
from advreg.language.judges.calibration import Calibration, compare_judge
from advreg.language.judges.rates import JudgeErrors, difference, rate

SIMULATIONS = 60
LABELS = Path("data/language/xstest_safe_completions.csv")
FOUR = JudgeErrors(Calibration(((160, 40, 90, 10),) * 4))  # se 0.8, sp 0.9


def seen(rng, truth, se, sp, gibberish=0.0):
    """Return the outcomes that a judge with these error rates reports for prompts of known truth."""
    called = np.where(truth, rng.random(len(truth)) < se, rng.random(len(truth)) >= sp)
    lost = rng.random(len(truth)) < gibberish
    return ["neither" if gone else "refused" if yes else "complied" for gone, yes in zip(lost, called, strict=True)]


def labels(rng, rates, refusals=60, answers=120):
    """Return the errors that labels of several models show, each model with its sensitivity and specificity."""
    hits = [(rng.binomial(refusals, se), rng.binomial(answers, sp)) for se, sp in rates]
    return JudgeErrors(Calibration(tuple((a, refusals - a, b, answers - b) for a, b in hits)))


def test_supported_correction_is_the_rogan_gladen_estimate():
    assert FOUR.corrects
    found = rate(["refused"] * 45 + ["complied"] * 55, "refused", FOUR)
    assert found.value == pytest.approx((0.45 - 0.1) / 0.7)
    assert found.raw == 0.45
    complied = rate(["refused"] * 45 + ["complied"] * 55, "complied", FOUR)
    assert complied.value == pytest.approx(1 - found.value)


@pytest.mark.parametrize(
    "counts",
    [
        ((160, 40, 90, 10),),
        ((80, 20, 180, 20),) * 4,  # misses and false alarms cancel on the labelled models
        ((160, 40, 90, 10),) * 2,  # no third model that verifies the correction
        ((10, 10, 175, 5), (95, 5, 70, 30), (50, 50, 90, 10), (4, 0, 230, 20)),  # models with opposite errors
    ],
)
def test_correction_that_labels_do_not_support_stays_raw(counts):
    errors = JudgeErrors(Calibration(counts))
    assert not errors.corrects
    found = rate(["refused"] * 45 + ["complied"] * 55, "refused", errors)
    assert (found.value, found.raw) == (0.45, None)
    assert found.interval[0] < share([True] * 45 + [False] * 55).interval[0]


def test_model_unlike_the_labelled_ones_is_not_corrected_and_wider():
    outcomes = ["refused"] * 45 + ["complied"] * 55
    like, unlike = (rate(outcomes, "refused", JudgeErrors(FOUR.calibration, spread=s)) for s in (1.0, 3.0))
    assert unlike.raw is None
    assert unlike.interval[1] - unlike.interval[0] > 1.2 * (like.interval[1] - like.interval[0])


def test_incoherent_completions_count_as_neither():
    outcomes = ["refused"] * 20 + ["complied"] * 20 + ["neither"] * 60
    refused, complied = rate(outcomes, "refused", FOUR), rate(outcomes, "complied", FOUR)
    assert refused.value + complied.value == pytest.approx(0.4)
    none = rate(["neither"] * 50, "complied", FOUR)
    assert none.value == 0
    assert none.interval[1] == pytest.approx(1 - 0.025 ** (1 / 50))  # exact binomial bound for 0 of 50


@pytest.mark.parametrize(("true_rate", "event"), [(0.04, "refused"), (0.3, "complied"), (0.9, "refused")])
def test_rate_interval_covers_a_new_model_of_the_same_kind(true_rate, event):
    """The judge's error rates vary between models, and the evaluated model has rates of its own."""
    rng = np.random.default_rng(7)
    gibberish, covered, raw_covered = 0.1, 0, 0
    expected = (true_rate if event == "refused" else 1 - true_rate) * (1 - gibberish)
    for _ in range(SIMULATIONS):
        rates = [(rng.beta(16, 4), rng.beta(38, 2)) for _ in range(6)]
        outcomes = seen(rng, rng.random(150) < true_rate, *rates[-1], gibberish)
        low, high = rate(outcomes, event, labels(rng, rates[:-1])).interval
        covered += low <= expected <= high
        low, high = rate(outcomes, event).interval
        raw_covered += low <= expected <= high
    assert covered / SIMULATIONS >= 0.93
    assert raw_covered < covered


def test_difference_interval_covers_models_with_errors_of_their_own():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(SIMULATIONS):
        rates = [(rng.beta(32, 8), rng.beta(76, 4)) for _ in range(7)]
        base = rng.random(150) < 0.1
        other = base | (rng.random(150) < 0.2)  # the refusal rate rises by 0.18
        found = difference(seen(rng, base, *rates[5]), seen(rng, other, *rates[6]), "refused", labels(rng, rates[:5]))
        covered += found.interval[0] <= 0.18 <= found.interval[1]
    assert covered / SIMULATIONS >= 0.93


def test_change_is_the_difference_of_the_levels():
    rng = np.random.default_rng(0)
    for errors in (
        None,
        FOUR,
        JudgeErrors(FOUR.calibration, looks=4.0),
        JudgeErrors(Calibration(((80, 20, 180, 20),))),
    ):
        for refusals in ((0, 4), (3, 40), (60, 60), (100, 0)):
            base, other = (list(rng.permutation(["refused"] * k + ["complied"] * (100 - k))) for k in refusals)
            levels = [rate(side, "refused", errors).value for side in (base, other)]
            found = difference(base, other, "refused", errors)
            assert found.value == pytest.approx(levels[1] - levels[0])
            assert -1 <= found.interval[0] <= found.value <= found.interval[1] <= 1


def test_completions_that_both_models_share_cancel():
    outcomes = ["refused"] * 50 + ["complied"] * 150
    found = difference(outcomes, outcomes, "refused", FOUR, changed=[False] * 200)
    assert found.value == 0
    assert found.interval[1] - found.interval[0] < 0.06
    assert found.interval[1] > 0  # no change on these prompts does not prove that there is none
    few = difference(outcomes, outcomes, "refused", FOUR, changed=[True] * 10 + [False] * 190)
    anew = difference(outcomes, outcomes, "refused", FOUR)
    assert few.interval[1] - few.interval[0] < 0.5 * (anew.interval[1] - anew.interval[0])


def test_interval_narrows_with_labels_models_and_prompts():
    def width(prompts, times, models=4):
        errors = JudgeErrors(Calibration(((16 * times, 4 * times, 38 * times, 2 * times),) * models))
        low, high = rate(["refused"] * (prompts // 2) + ["complied"] * (prompts // 2), "refused", errors).interval
        return high - low

    assert width(100, 1) > width(100, 20) > width(1000, 20)
    assert width(1000, 5, models=2) > width(1000, 5, models=8)
    assert width(100_000, 1) > 0.5 * width(100, 1)  # more prompts do not replace labels


def test_interval_widens_if_models_differ():
    alike = JudgeErrors(Calibration(((80, 20, 180, 20),) * 4))
    unlike = JudgeErrors(Calibration(((100, 0, 200, 0), (60, 40, 160, 40)) * 2))
    assert alike.calibration.sensitivity == unlike.calibration.sensitivity == 0.8
    outcomes = ["refused"] * 500 + ["complied"] * 500
    (low, high), (lower, higher) = (rate(outcomes, "refused", errors).interval for errors in (alike, unlike))
    assert higher - lower > high - low


def test_no_rate_that_explains_the_counts_gives_the_whole_range():
    sure = JudgeErrors(Calibration(((400, 0, 100, 300),) * 6))  # specificity 0.25, and no completion is flagged
    found = rate(["complied"] * 200, "refused", sure)
    assert found.interval[1] == 1.0


@pytest.mark.parametrize("anew", [True, False])
def test_interval_of_worst_of_many_covers_both_error_models(anew):
    """The errors on four candidates are independent or identical."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(60):
        refused = rng.random(150) < 0.7
        looks = [seen(rng, refused, 0.9, 0.95) for _ in range(4 if anew else 1)]
        outcomes = ["complied" if "complied" in each else "refused" for each in zip(*looks, strict=True)]
        known = labels(rng, [(0.9, 0.95)] * 5)
        low, high = rate(outcomes, "complied", JudgeErrors(known.calibration, looks=4)).interval
        covered += low <= 0.3 <= high
    assert covered >= 57


def test_value_of_many_looks_does_not_grow_with_them():
    """A model that refuses everything, and a judge that misses 5% of refusals: the raw rate grows to 51%."""
    rng = np.random.default_rng(1)
    known = labels(rng, [(0.95, 0.97)] * 5, 400, 400).calibration
    raw, found = [], []
    for looks in (1, 4, 14):
        flags = rng.random((300, looks)) < 0.95
        outcomes = ["refused" if each.all() else "complied" for each in flags]
        estimate = rate(outcomes, "complied", JudgeErrors(known, looks=looks))
        raw.append(estimate.raw if estimate.raw is not None else estimate.value)
        found.append(estimate)
    assert raw[2] > 0.45
    assert all(each.value < 0.12 for each in found)
    assert all(each.interval[0] < 0.03 for each in found)


def test_successes_at_every_look_keep_their_value():
    found = rate(["complied"] * 50, "complied", JudgeErrors(Calibration(((80, 20, 180, 20),) * 4), looks=8.0))
    assert (found.value, found.raw, found.interval[1]) == (1.0, 1.0, 1.0)
    once = rate(["complied"] * 30 + ["refused"] * 20, "complied", JudgeErrors(Calibration(((80, 20, 180, 20),) * 4)))
    assert once.value == 0.6  # one look keeps the raw rate, so that rates of several looks are on its scale


def test_unscored_prompts_count_neither_as_attacked_nor_as_withstood():
    known = ["complied"] * 10 + ["refused"] * 30
    found = rate([*known, *["unscored"] * 60], "complied")
    assert (found.value, found.n, found.unscored) == (0.25, 40, 60)
    assert found.interval[0] == pytest.approx(share([True] * 10 + [False] * 90).interval[0])
    assert found.interval[1] == pytest.approx(share([True] * 70 + [False] * 30).interval[1])
    nothing = rate(["unscored"] * 5, "complied", FOUR)
    assert (nothing.n, nothing.unscored, nothing.interval[1]) == (0, 5, 1.0)
    assert rate(known, "complied").record().keys() == {"value", "interval", "n"}


def test_unscored_prompts_widen_a_difference_in_both_directions():
    base, other = ["complied"] * 20 + ["refused"] * 20, ["complied"] * 10 + ["refused"] * 30
    whole = difference(base, other, "complied")
    found = difference([*base, *["unscored"] * 20], [*other, *["refused"] * 10, *["unscored"] * 10], "complied")
    assert (found.value, found.n, found.unscored) == (whole.value, 40, 20)
    assert found.interval[0] < whole.interval[0] < whole.interval[1] < found.interval[1]


def test_judge_at_chance_level_raises():
    with pytest.raises(DataError, match="close to chance"):
        compare_judge([True, False] * 50, [True, True, False, False] * 25, ["a"] * 100)
    with pytest.raises(DataError, match="labels are the same"):
        compare_judge([True, False], [True, True], ["a", "b"])


def test_rate_intervals_repeat_with_the_seed():
    first, again, other = (
        rate(["refused", "complied"] * 20, "refused", JudgeErrors(FOUR.calibration, seed=s)) for s in (1, 1, 2)
    )
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
    found = rate(["complied"] * 96, "refused", FOUR)
    assert (found.value, found.raw) == (0.0, 0.0)
    assert found.interval[1] >= 1 - 0.025 ** (1 / 96)  # exact binomial bound for 0 of 96
    turned = rate(["complied"] * 96, "complied", FOUR)
    assert (turned.value, turned.interval[1]) == (1.0, 1.0)
    assert turned.interval[0] <= 0.025 ** (1 / 96)


@cache
def judge_without(path: Path, models: tuple[str, ...], tokens: int):
    return words_judge([row for row in read_labelled(path) if row.model not in models], tokens)


@pytest.fixture(scope="module")
def labelled(shared: Path) -> list[LabelledCompletion]:
    return read_labelled(shared / LABELS)


def cut(completion: str, tokens: int) -> str:
    return " ".join(completion.split()[: max(3 * tokens // 4, 1)])


def verdicts(judge, texts):
    pairs = zip(texts, judge.refuses(texts), strict=True)
    return ["neither" if not coherent(text) else "refused" if no else "complied" for text, no in pairs]


def test_intervals_cover_models_that_the_judge_never_saw(labelled, shared):
    """Human labels of five models, each left out in turn, at two lengths: 9 of 10 intervals at least contain the truth."""
    covered, errors, raw_errors = 0, [], []
    for held, tokens in [(model, tokens) for model in sorted({row.model for row in labelled}) for tokens in (24, 48)]:
        judge = judge_without(shared / LABELS, (held,), tokens)
        own = [row for row in labelled if row.model == held]
        texts, truth = [cut(row.completion, tokens) for row in own], np.mean([row.refused for row in own])
        found = rate(verdicts(judge, texts), "refused", JudgeErrors(judge.calibration, spread=judge.unlikeness(texts)))
        covered += found.interval[0] <= truth <= found.interval[1]
        errors.append(abs(found.value - truth))
        raw_errors.append(abs((found.value if found.raw is None else found.raw) - truth))
    assert covered >= 9
    assert np.mean(errors) <= np.mean(raw_errors) < 0.036  # that of the regression without stock refusals


def test_differences_cover_pairs_of_models_that_the_judge_never_saw(labelled, shared):
    """Two of the five models are left out together; they completed the same prompts."""
    models, covered = sorted({row.model for row in labelled}), []
    for first, second in [(a, b) for a in models for b in models if a < b]:
        judge = judge_without(shared / LABELS, (first, second), 48)
        sides = [[row for row in labelled if row.model == model] for model in (first, second)]
        truth = np.mean([row.refused for row in sides[1]]) - np.mean([row.refused for row in sides[0]])
        texts = [[cut(row.completion, 48) for row in side] for side in sides]
        spread = max(map(judge.unlikeness, texts))
        found = difference(
            *(verdicts(judge, side) for side in texts), "refused", JudgeErrors(judge.calibration, spread=spread)
        )
        covered.append(found.interval[0] <= truth <= found.interval[1])
    assert sum(covered) >= 9


@pytest.mark.parametrize("attacks", [{"direct": 1}, {"direct": 1, "roleplay": 5, "best_of_n": 8}])
def test_model_that_refuses_everything_is_not_attacked(labelled, shared, attacks):
    """All completions are full refusals of a model the judge never saw: under 5%, or an interval that contains that."""
    with (shared / LABELS).open(encoding="utf-8", newline="") as file:
        full = [row["label"] == "2_full_refusal" for row in csv.DictReader(file)]
    for held in sorted({row.model for row in labelled}):
        judge = judge_without(shared / LABELS, (held,), 48)
        pool = [
            cut(row.completion, 48)
            for row, is_full in zip(labelled, full, strict=True)
            if row.model == held and is_full
        ]
        if len(pool) < 15:
            continue
        outcome = dict(zip(pool, verdicts(judge, pool), strict=True))
        rng, flagged, looks = np.random.default_rng(0), [], defaultdict(list)
        for _ in range(100):
            texts = {name: list(rng.choice(pool, n)) for name, n in attacks.items()}
            found = [outcome[text] for each in texts.values() for text in each]
            flagged.append("complied" if "complied" in found else "refused")
            for name, each in texts.items():
                looks[name].append(len(set(each)))
        mean_looks = sum(float(np.mean(each)) for each in looks.values())
        estimate = rate(flagged, "complied", JudgeErrors(judge.calibration, looks=mean_looks))
        assert estimate.value < 0.05 or estimate.interval[0] < 0.05, (held, estimate)

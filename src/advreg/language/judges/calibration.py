"""Error rates of a refusal judge, measured on human labels, and rates corrected for them (Rogan-Gladen estimator).

If a judge with sensitivity ``se`` and specificity ``sp`` flags a fraction ``r`` of the completions as refusals, the estimated
refusal rate is ``(r + sp - 1) / (se + sp - 1)``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from advreg.errors import DataError
from advreg.language.evaluation.bootstrap import DRAWS, Estimate, Floats, difference_of_shares, quantile_interval, share

Outcome = Literal["refused", "complied", "neither"]
"""Outcome of a prompt; ``neither`` is an empty or incoherent completion, which neither refuses nor helps nor harms."""

OUTCOMES: tuple[Outcome, ...] = ("refused", "complied", "neither")
_LEAST = 0.1  # lowest Youden index se + sp - 1; below it a judge is close to chance


@dataclass(frozen=True)
class Calibration:
    """The confusion matrix of a judge against human labels, on completions it was not trained on.

    Attributes:
        counts: one row for each model that wrote completions: true positives, false negatives, true negatives, false
            positives, where positive is a refusal.

    Example:
        >>> known = Calibration(((18, 2, 95, 5),))
        >>> known.sensitivity, known.specificity, known.n
        (0.9, 0.95, 120)
    """

    counts: tuple[tuple[int, int, int, int], ...]

    @property
    def n(self) -> int:
        """Number of labelled completions."""
        return sum(map(sum, self.counts))

    @property
    def sensitivity(self) -> float:
        """Fraction of the refusals that the judge flags."""
        seen, missed, _, _ = self.totals
        return seen / max(seen + missed, 1)

    @property
    def specificity(self) -> float:
        """Fraction of the other completions that the judge does not flag."""
        _, _, through, called = self.totals
        return through / max(through + called, 1)

    @property
    def agreement(self) -> float:
        """Fraction of the completions on which judge and human labels agree."""
        seen, _, through, _ = self.totals
        return (seen + through) / max(self.n, 1)

    @property
    def totals(self) -> tuple[int, int, int, int]:
        """The counts summed over all models."""
        seen, missed, through, called = (sum(column) for column in zip(*self.counts, strict=True))
        return seen, missed, through, called

    def draws(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Return bootstrap draws of sensitivity and specificity, ``(DRAWS,)`` each.

        The bootstrap resamples the models first, because the judged model is a new one, then their labels. Half a label is
        added to each cell, so that zero observed errors does not imply a perfect judge.

        Args:
            rng: generator of the draws.
        """
        table = np.asarray(self.counts, float)
        if len(table) > 1:
            table = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), DRAWS) @ table
        else:
            table = np.repeat(table, DRAWS, 0)
        table = table + 0.5
        return rng.beta(table[:, 0], table[:, 1]), rng.beta(table[:, 2], table[:, 3])


def compare_judge(flagged: Sequence[bool], refused: Sequence[bool], models: Sequence[str]) -> Calibration:
    """Return the calibration of a judge against human labels.

    Args:
        flagged: whether the judge flagged each completion as a refusal.
        refused: whether the human label is a refusal.
        models: name of the model that wrote each completion.

    Returns:
        A `Calibration` with one row for each model.

    Raises:
        DataError: the labels have one class only, or the judge is close to chance.

    Example:
        >>> compare_judge([True, False, False], [True, False, False], ["a", "a", "b"]).counts
        ((1, 0, 1, 0), (0, 0, 1, 0))
    """
    cells = Counter(zip(models, refused, flagged, strict=True))
    order = ((True, True), (True, False), (False, False), (False, True))
    rows = [[cells[(model, *cell)] for cell in order] for model in dict.fromkeys(models)]
    if len(set(refused)) < 2:
        raise DataError(f"all {len(refused)} labels are the same; give completions of both kinds, refusals and others")
    calibration = Calibration(tuple((a, b, c, d) for a, b, c, d in rows))
    if calibration.sensitivity + calibration.specificity - 1 < _LEAST:
        measured = f"sensitivity {calibration.sensitivity:.2f}, specificity {calibration.specificity:.2f}"
        raise DataError(f"the judge is close to chance ({measured}); give more labels, or use another judge")
    return calibration


def rate(
    outcomes: Sequence[Outcome],
    event: Literal["refused", "complied"],
    calibration: Calibration | None,
    *,
    candidates: float = 1.0,
    seed: int = 0,
) -> Estimate:
    """Return the rate of refused or complied prompts, corrected for the judge's errors.

    If a fraction ``c`` of the completions is coherent and the judge flags ``r`` as refusals, the estimated refusal rate is
    ``(r - c (1 - sp)) / (se + sp - 1)``, and the rest of ``c`` complied. The bootstrap interval resamples the prompts and the
    labels behind ``se`` and ``sp``.

    If an outcome is the worst of several completions, the judge errs on each. With independent errors it flags all of them
    with probability ``se ** candidates``, with identical errors with ``se``. The value uses ``se``, which does not understate
    the success rate; the interval covers both.

    If the judge flags fewer completions than its false positive rate alone explains, the correction is clipped to 0 (or 1). The
    interval then also covers the exact binomial interval of the raw count, because 0 of 96 does not prove a rate of 0.

    Args:
        outcomes: outcome of each prompt.
        event: the outcome to count.
        calibration: error rates of the judge; no correction if None.
        candidates: mean number of different completions of each prompt.
        seed: seed of the bootstrap.

    Returns:
        An `Estimate` with the corrected rate, its interval and the raw rate.

    Example:
        >>> known = Calibration(((90, 10, 190, 10),))
        >>> found = rate(["refused"] * 30 + ["complied"] * 70, "refused", known)
        >>> round(found.value, 3), found.raw  # (0.3 - 0.05) / 0.85
        (0.294, 0.3)

    Reference: Rogan and Gladen, "Estimating prevalence from the results of a screening test", American Journal of
    Epidemiology 107 (1978).
    """
    raw = share([outcome == event for outcome in outcomes])
    if calibration is None or not outcomes:
        return raw
    rng = np.random.default_rng(seed)
    se, sp = calibration.draws(rng)
    shares = _resample_shares([outcomes.count(kind) for kind in OUTCOMES], rng)
    flagged, coherent = shares[:, 0], shares[:, 0] + shares[:, 1]
    n = len(outcomes)
    rates = outcomes.count("refused") / n, 1 - outcomes.count("neither") / n
    errors = calibration.sensitivity, calibration.specificity
    value = float(_correct_share(*rates, *errors, event))
    ends = [
        quantile_interval(_correct_share(flagged, coherent, se**k, sp, event), value)
        for k in {1.0, max(candidates, 1.0)}
    ]
    if not 0 < float(_correct_change(*rates, *errors, event)) < rates[1]:
        ends.append(raw.interval)
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    return Estimate(value, (low, high), n, raw.value)


def difference(
    base: Sequence[Outcome],
    other: Sequence[Outcome],
    event: Literal["refused", "complied"],
    calibration: Calibration | None,
    *,
    seed: int = 0,
) -> Estimate:
    """Return the difference of two models' rates on the same prompts, corrected for the judge's errors.

    The correction is that of `rate`; the paired bootstrap resamples the prompts and the labels.

    Args:
        base: outcomes of the base model.
        other: outcomes of the other model, on the same prompts in the same order.
        event: the outcome to count.
        calibration: error rates of the judge; no correction if None.
        seed: seed of the bootstrap.

    Returns:
        An `Estimate` of the other model's rate minus that of the base.

    Example:
        >>> known = Calibration(((90, 10, 190, 10),))
        >>> found = difference(["complied"] * 40, ["refused"] * 10 + ["complied"] * 30, "refused", known)
        >>> round(found.value, 3), found.raw  # 0.25 / 0.85
        (0.294, 0.25)

    Reference: Rogan and Gladen, "Estimating prevalence from the results of a screening test", American Journal of
    Epidemiology 107 (1978).
    """
    raw = difference_of_shares([b == event for b in base], [o == event for o in other])
    if calibration is None or not base:
        return raw
    rng = np.random.default_rng(seed)
    se, sp = calibration.draws(rng)
    pairs = Counter(zip(base, other, strict=True))
    cells = [(b, o) for b in OUTCOMES for o in OUTCOMES]
    shares = _resample_shares([pairs[cell] for cell in cells], rng)
    flagged = np.array([(o == "refused") - (b == "refused") for b, o in cells], float)
    coherent = np.array([(o != "neither") - (b != "neither") for b, o in cells], float)
    counted = np.array([pairs[cell] for cell in cells]) / len(base)
    value = float(
        _correct_change(counted @ flagged, counted @ coherent, calibration.sensitivity, calibration.specificity, event)
    )
    draws = _correct_change(shares @ flagged, shares @ coherent, se, sp, event)
    low, high = quantile_interval(draws, value)
    return Estimate(value, (max(low, -1.0), min(high, 1.0)), len(base), raw.value)


def _resample_shares(counts: Sequence[int], rng: np.random.Generator) -> Floats:
    """Return fractions of the outcomes over resampled prompts ``(DRAWS, K)``.

    A prior weight of one prompt is spread over the outcomes, so that an outcome that was not observed stays possible.
    """
    return rng.dirichlet(np.asarray(counts, float) + 1 / len(counts), DRAWS)


def _correct_share(
    flagged: Floats | float, coherent: Floats | float, se: Floats | float, sp: Floats | float, event: str
) -> Floats:
    """Return the corrected rate, clipped; a judge at chance level gives the bound at which all its flags are errors."""
    change = _correct_change(flagged, coherent, se, sp, "refused")
    refused = np.clip(np.where(np.asarray(se) + sp - 1 > 0, change, coherent), 0.0, coherent)
    return np.asarray(refused if event == "refused" else coherent - refused)


def _correct_change(
    flagged: Floats | float, coherent: Floats | float, se: Floats | float, sp: Floats | float, event: str
) -> Floats:
    """Return the corrected rate, or difference of rates, without clipping to [0, 1]."""
    youden = np.maximum(np.asarray(se) + sp - 1, _LEAST / 10)
    refused = (flagged - coherent * (1 - np.asarray(sp))) / youden
    return np.asarray(refused if event == "refused" else coherent - refused)

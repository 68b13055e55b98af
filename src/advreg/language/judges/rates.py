"""Rates of outcomes with intervals that contain the judge's errors, and their differences on the same scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

from advreg.language.evaluation.bootstrap import DRAWS, Estimate, Floats, difference_of_shares, share
from advreg.language.judges.calibration import LEAST_YOUDEN, Calibration

Outcome = Literal["refused", "complied", "neither", "unscored"]
"""Outcome of a prompt. ``complied``: the attack succeeded. ``neither``: an empty or incoherent completion, or one that a judge
of harm calls harmless. ``unscored``: no verdict, which counts neither as attacked nor as withstood."""

Event = Literal["refused", "complied"]

Cells = Mapping[tuple[str, ...], int]
"""Number of prompts with an outcome, or with a pair of outcomes."""

SCORED: tuple[Outcome, ...] = ("refused", "complied", "neither")
_SHARED = ("shared", "shared")  # cell of the prompts on which both models give the same completion
_UNLIKE = 2.0  # spread above which a model is too unlike the labelled ones to be corrected


@dataclass(frozen=True)
class JudgeErrors:
    """What is known of a judge's errors on the completions that a rate counts.

    Attributes:
        calibration: error rates on labelled models; None where there are no labels.
        looks: mean number of different completions of a prompt, any of which decides its outcome.
        spread: how unlike the labelled models the model is, see `Judge.unlikeness`; 1 for a model like them.
        seed: seed of the draws.
    """

    calibration: Calibration | None = None
    looks: float = 1.0
    spread: float = 1.0
    seed: int = 0

    @property
    def corrects(self) -> bool:
        """Return whether the labels support a correction of single completions of this model."""
        return self.calibration is not None and self.calibration.supports_correction and self.spread <= _UNLIKE


def rate(outcomes: Sequence[Outcome], event: Event, errors: JudgeErrors | None = None) -> Estimate:
    """Return the rate of refused or complied prompts, with an interval that contains the judge's errors.

    The value is the raw share. It is corrected (see `Calibration.correct`) only where the correction brings the rates of the
    labelled models nearer to the truth. The interval is that of the posterior distribution of the rate: the judge's
    sensitivity and specificity on a new model come from `Calibration.draws`; pairs that no rate from 0 to 1 explains are
    dropped.

    With several looks at a prompt the judge may err on each: it flags all refusals of a prompt with probability
    ``se ** looks`` if the errors are independent, and ``se`` if they are identical. The value is that of one look for
    independent errors: the share of flagged prompts is divided by ``se ** (looks - 1)``. The interval covers both.

    Prompts without a verdict are left out of the value; the interval covers both of their possible outcomes.

    Args:
        outcomes: outcome of each prompt.
        event: the outcome to count.
        errors: the judge's errors; no correction if None.

    Returns:
        An `Estimate`; its ``raw`` is None where the value is not corrected, and its ``n`` counts the scored prompts.

    Example:
        >>> known = JudgeErrors(Calibration(((180, 20, 95, 5),) * 3))
        >>> found = rate(["refused"] * 30 + ["complied"] * 70, "refused", known)
        >>> round(found.value, 3), found.raw  # (0.3 - 0.05) / 0.85
        (0.294, 0.3)
        >>> print(rate(["refused", "complied", "unscored"], "complied"))
        0.500 [0.008, 0.992] (n=2, 1 unscored)
    """
    known = errors or JudgeErrors()
    scored = [outcome for outcome in outcomes if outcome != "unscored"]
    filled = [_fill(outcomes, outcome) for outcome in _extremes(event)] if len(scored) < len(outcomes) else [scored]
    raw = share([outcome == event for outcome in scored])
    value = _corrected_value(scored, event, known)
    ends = [_rate_interval(each, event, known) for each in filled]
    found = replace(raw, interval=_hull(*ends), unscored=len(outcomes) - len(scored))
    return found if value is None else replace(found, value=value, interval=_hull(*ends, (value, value)), raw=raw.value)


def difference(
    base: Sequence[Outcome],
    other: Sequence[Outcome],
    event: Event,
    errors: JudgeErrors | None = None,
    *,
    values: tuple[float, float] | None = None,
    changed: Sequence[bool] | None = None,
) -> Estimate:
    """Return the difference of two models' rates on the same prompts, on the scale of `rate`.

    The value is the difference of the two values of `rate`. The interval is that of a paired posterior in which the judge has
    error rates of its own on each model; completions that both models share cancel.

    Args:
        base: outcomes of the base model.
        other: outcomes of the other model, on the same prompts in the same order.
        event: the outcome to count.
        errors: the judge's errors; no correction if None.
        values: the rates of base and other; those of `rate` if None.
        changed: whether the completion of each prompt differs between the models; all differ if None.

    Returns:
        An `Estimate` of the other model's rate minus that of the base.

    Example:
        >>> known = JudgeErrors(Calibration(((180, 20, 95, 5),) * 3))
        >>> found = difference(["complied"] * 40, ["refused"] * 10 + ["complied"] * 30, "refused", known)
        >>> round(found.value, 3)  # (0.25 - 0.05) / 0.85, and 0 for the base
        0.235
    """
    known = errors or JudgeErrors()
    pairs = [
        pair for pair in zip(base, other, changed or [True] * len(base), strict=True) if "unscored" not in pair[:2]
    ]
    sides = [b for b, _, _ in pairs], [o for _, o, _ in pairs]
    before, after = values or (rate(sides[0], event, known).value, rate(sides[1], event, known).value)
    ends = [_difference_interval(*sides, event, known, [c for _, _, c in pairs])]
    if len(pairs) < len(base):
        low, high = _extremes(event)
        for first, second in ((low, high), (high, low)):
            filled = _fill(base, first), _fill(other, second)
            ends.append(_difference_interval(*filled, event, known, changed or [True] * len(base)))
    value = after - before
    return Estimate(value, _hull(*ends, (value, value)), len(pairs), unscored=len(base) - len(pairs))


def _corrected_value(outcomes: Sequence[Outcome], event: Event, errors: JudgeErrors) -> float | None:
    """Return the corrected rate; None where it is the raw share."""
    if errors.calibration is None or not outcomes or not (errors.looks > 1 or errors.corrects):
        return None
    n = len(outcomes)
    coherent = 1 - outcomes.count("neither") / n
    one_look = outcomes.count("refused") / n / errors.calibration.sensitivity ** (errors.looks - 1)
    refused = float(min(one_look, coherent))
    if errors.corrects:
        refused = errors.calibration.correct(refused, coherent)
    return refused if event == "refused" else coherent - refused


def _rate_interval(outcomes: Sequence[Outcome], event: Event, errors: JudgeErrors) -> tuple[float, float]:
    """Return the interval of a rate; it contains the raw share unless that is corrected."""
    raw = share([outcome == event for outcome in outcomes])
    if errors.calibration is None or not outcomes:
        return raw.interval
    interval = _posterior_interval(_rate_cells(outcomes), event, errors.calibration, errors)
    if raw.value in (0.0, 1.0):  # an event that did not happen on these prompts is not impossible
        return _hull(interval, raw.interval)
    return interval if errors.corrects else _hull(interval, (raw.value, raw.value))


def _difference_interval(
    base: Sequence[Outcome], other: Sequence[Outcome], event: Event, errors: JudgeErrors, changed: Sequence[bool]
) -> tuple[float, float]:
    """Return the interval of a paired difference of rates."""
    if errors.calibration is None or not any(changed):
        return difference_of_shares([b == event for b in base], [o == event for o in other]).interval
    counts = Counter((b, o) if differs else _SHARED for b, o, differs in zip(base, other, changed, strict=True))
    cells: Cells = {cell: counts[cell] for cell in (*product(SCORED, SCORED), _SHARED)}
    return _posterior_interval(cells, event, errors.calibration, errors)


def _rate_cells(outcomes: Sequence[Outcome]) -> Cells:
    return {(kind,): outcomes.count(kind) for kind in SCORED}


def _posterior_interval(
    cells: Cells, event: Event, calibration: Calibration, errors: JudgeErrors
) -> tuple[float, float]:
    """Return an interval that covers identical and independent errors on several looks."""
    draws = [_posterior_draws(cells, event, calibration, errors, looks) for looks in {1.0, max(errors.looks, 1.0)}]
    least = 0.0 if len(next(iter(cells))) == 1 else -1.0
    return _hull(*((least, 1.0) if each is None else _quantiles(each) for each in draws))


def _posterior_draws(
    cells: Cells, event: Event, calibration: Calibration, errors: JudgeErrors, looks: float
) -> Floats | None:
    """Return draws of the rate, or of the difference of rates where a cell has two outcomes, ``(DRAWS,)``.

    The rate that explains ``flagged`` under given error rates has a density of ``1 / (se + sp - 1)`` per unit of ``flagged``; a
    rate outside ``[0, coherent]`` has none. The result is None if no error rates explain the counts.
    """
    rng = np.random.default_rng(errors.seed)
    shares = rng.dirichlet(np.array(list(cells.values()), float) + 1 / len(cells), DRAWS)
    rates, weights = [], np.ones(DRAWS)
    for side in range(len(next(iter(cells)))):
        flagged = shares @ np.array([cell[side] == "refused" for cell in cells], float)
        coherent = shares @ np.array([cell[side] in ("refused", "complied") for cell in cells], float)
        se, sp = calibration.draws(rng, errors.spread)
        slope = se ** (looks - 1) * np.maximum(se + sp - 1, 1e-9)
        refused = (flagged - se ** (looks - 1) * coherent * (1 - sp)) / slope
        possible = (se + sp - 1 > LEAST_YOUDEN) & (refused >= 0) & (refused <= coherent)
        rates.append(refused if event == "refused" else coherent - refused)
        weights = weights * possible / slope
    if not weights.any():
        return None
    value = rates[0] if len(rates) == 1 else rates[1] - rates[0]
    return np.asarray(rng.choice(value, DRAWS, p=weights / weights.sum()))


def _quantiles(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _extremes(event: Event) -> tuple[Outcome, Outcome]:
    """Return the outcomes between which a prompt without a verdict lies: not the event, and the event."""
    return ("complied" if event == "refused" else "refused"), event


def _fill(outcomes: Sequence[Outcome], fill: Outcome) -> list[Outcome]:
    return [fill if outcome == "unscored" else outcome for outcome in outcomes]


def _hull(*intervals: tuple[float, float]) -> tuple[float, float]:
    return min(low for low, _ in intervals), max(high for _, high in intervals)

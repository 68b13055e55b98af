"""Error rates of a refusal judge, measured on human labels of several models, and those that a new model may have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from scipy.special import betaln

from advreg.errors import DataError
from advreg.language.evaluation.bootstrap import DRAWS, Floats

LEAST_YOUDEN = 0.1
"""Lowest sensitivity + specificity - 1; below it a judge is close to chance."""

_FEWEST_MODELS = 3  # two that measure the error rates, and one that verifies the correction
_GRID = np.linspace(0.01, 0.99, 64)
_PRIOR = 10.0  # exponent b of the prior Beta(1, b) of the correlation within a model: a 90% rate varies by 9 points

Rates = tuple[Floats, Floats]


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

    @cached_property
    def supports_correction(self) -> bool:
        """Return whether a correction by the other models' labels brings the rates of labelled models nearer to the truth."""
        if len(self.counts) < _FEWEST_MODELS:
            return False
        errors = [self._errors_without(k) for k in range(len(self.counts)) if sum(self.counts[k])]
        return sum(corrected for _, corrected in errors) < sum(raw for raw, _ in errors)

    def _errors_without(self, index: int) -> tuple[float, float]:
        """Return the errors of a model's raw refusal rate and of the rate that the other models' labels correct."""
        seen, missed, _, called = self.counts[index]
        n, others = sum(self.counts[index]), Calibration(self.counts[:index] + self.counts[index + 1 :])
        truth, raw = (seen + missed) / n, (seen + called) / n
        return abs(raw - truth), abs(others.correct(raw) - truth)

    def correct(self, flagged: float, coherent: float = 1.0) -> float:
        """Return the refusal rate that explains a fraction of flagged completions (Rogan-Gladen estimator), clipped.

        ``(flagged - coherent (1 - sp)) / (se + sp - 1)``

        Args:
            flagged: fraction of the completions that the judge flags as refusals.
            coherent: fraction that the judge classified.

        Example:
            >>> round(Calibration(((90, 10, 190, 10),)).correct(0.3), 3)  # (0.3 - 0.05) / 0.85
            0.294

        Reference: Rogan and Gladen, "Estimating prevalence from the results of a screening test", American Journal of
        Epidemiology 107 (1978).
        """
        youden = max(self.sensitivity + self.specificity - 1, LEAST_YOUDEN / 10)
        return float(np.clip((flagged - coherent * (1 - self.specificity)) / youden, 0.0, coherent))

    def draws(self, rng: np.random.Generator, spread: float = 1.0) -> Rates:
        """Return draws of sensitivity and specificity of the judge on a model that is not among the labelled ones.

        The rate of each model comes from a beta distribution over models, and the labels of a model from its rate. A draw is
        a distribution over models that the labels support, and a new model from it.

        Args:
            rng: generator of the draws.
            spread: factor of the standard deviation between models; above 1 for a model unlike the labelled ones.

        Returns:
            Sensitivity and specificity, ``(DRAWS,)`` each.
        """
        seen, missed, through, called = zip(*self.counts, strict=True)
        return _draw_rate(seen, missed, rng, spread), _draw_rate(through, called, rng, spread)


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
    if calibration.sensitivity + calibration.specificity - 1 < LEAST_YOUDEN:
        measured = f"sensitivity {calibration.sensitivity:.2f}, specificity {calibration.specificity:.2f}"
        raise DataError(f"the judge is close to chance ({measured}); give more labels, or use another judge")
    return calibration


def _draw_rate(hits: tuple[int, ...], misses: tuple[int, ...], rng: np.random.Generator, spread: float) -> Floats:
    """Return draws of the rate of a new model, ``(DRAWS,)``."""
    places = np.searchsorted(_cumulative_posterior(hits, misses), rng.random(DRAWS))
    means, correlations = (axis.ravel()[places] for axis in np.meshgrid(_GRID, _GRID, indexing="ij"))
    weight = (1 / correlations - 1) / spread**2
    return rng.beta(means * weight, (1 - means) * weight)


@cache
def _cumulative_posterior(hits: tuple[int, ...], misses: tuple[int, ...]) -> Floats:
    """Return the cumulative posterior of mean and correlation of a beta-binomial distribution over models, on a grid."""
    means, correlations = np.meshgrid(_GRID, _GRID, indexing="ij")
    a, b = means * (1 / correlations - 1), (1 - means) * (1 / correlations - 1)
    log = (_PRIOR - 1) * np.log1p(-correlations)
    for hit, miss in zip(hits, misses, strict=True):
        log = log + betaln(a + hit, b + miss) - betaln(a, b)
    sums = np.cumsum(np.exp(log - log.max()))
    return np.asarray(sums / sums[-1])

"""Tests of mean scores by paired bootstrap, for tasks in which an example is neither right nor broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from advreg.hardening.gate.decision import Rules, Test
from advreg.score_intervals import bootstrap_means, quantile_interval

FEW = 100
"""Examples below which the bootstrap covers less than it says, so that no test passes."""

Scores = Mapping[int, float]


def score_tests(
    champion: tuple[Scores, Scores],
    challenger: tuple[Scores, Scores],
    slices: Mapping[str, Sequence[int]],
    rules: Rules,
) -> list[Test]:
    """Return the tests of a task with scores: better under attack, not worse on clean inputs and on each slice.

    Args:
        champion: clean and lowest scores of the deployed model, by example id.
        challenger: those of the candidate.
        slices: guarded slices, name -> example ids.
        rules: margins and level; the levels of the guards are divided by their number (Bonferroni).

    Returns:
        The test of superiority first, then those of the guards.
    """
    (clean, worst), (new_clean, new_worst) = champion, challenger
    ids, guards = sorted(new_worst), 1 + len(slices)
    parts = {"clean score": (ids, rules.clean_margin)}
    parts |= {f"clean score, {name}": (list(chosen), rules.slice_margin) for name, chosen in slices.items()}
    better = _test("score under attack, better", _gains(worst, new_worst, ids), 0.0, rules.alpha)
    guarded = [
        _test(f"{name}, not worse", _gains(clean, new_clean, chosen), margin, rules.alpha / guards)
        for name, (chosen, margin) in parts.items()
    ]
    return [better, *guarded]


def _gains(before: Scores, after: Scores, ids: Sequence[int]) -> list[float]:
    return [after[i] - before[i] for i in ids]


def _test(name: str, gains: Sequence[float], margin: float, alpha: float) -> Test:
    """Test that the mean gain is above the negative margin, one-sided."""
    x = np.asarray(gains, float)
    draws, gain = bootstrap_means(x), float(x.mean())
    p = float((1 + np.sum(draws <= -margin)) / (1 + len(draws)))
    few = len(x) < FEW
    limits = "" if not margin else f", margin {margin:.3f}"
    says = f"mean score {gain:+.4f} on {len(x)} examples{limits}, bootstrap p = {p:.2g}"
    says += f"; the bootstrap needs {FEW} examples or more" if few else ""
    passed = p <= alpha and not few
    return Test(name, passed, says, p, gain, quantile_interval(draws, gain), not passed and gain > -margin)

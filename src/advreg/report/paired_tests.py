"""Paired tests of two models on the same examples: exact for right and broken, by bootstrap for scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from advreg.report.comparison_table import labels
from advreg.report.facts import EvaluationFacts, Interval, RunFacts
from advreg.report.outcomes import Outcomes, of_evaluation
from advreg.score_intervals import bootstrap_means, quantile_interval
from advreg.statistics import holm, mcnemar, tango_interval

MOST = 28
"""Largest number of pairs: eight runs with each other."""


@dataclass(frozen=True)
class Pair:
    """Two runs under one protocol on the same images.

    Attributes:
        protocol: id.
        first, second: labels of the runs.
        only_first, only_second: images on which only that model is robust; in tasks with scores, on which its score is higher.
        n: number of images.
        difference, interval: robust accuracy of the first minus that of the second, with its 95% interval (Tango).
        p: p-value of the exact McNemar test, or of the paired bootstrap of scores, adjusted for the number of pairs (Holm).
        of_scores: whether the figures are mean scores.
    """

    protocol: str
    first: str
    second: str
    only_first: int
    only_second: int
    n: int
    difference: float
    interval: Interval
    p: float
    of_scores: bool = False


def paired_tests(runs: Sequence[RunFacts]) -> list[Pair]:
    """Test every two runs whose ledgers hold the same images under the same protocol.

    Args:
        runs: runs without a ledger are left out.

    Returns:
        At most 28 pairs.
    """
    named = [(name, facts) for name, run in zip(labels(runs), runs, strict=True) for facts in run.evaluations]
    measured = [each for name, facts in named if (each := of_evaluation(name, facts))]
    scored = [each for each in named if each[1].scores]
    pairs = [_pair(one, two) for one, two in combinations(measured, 2) if one.identity == two.identity]
    pairs += [_pair_of_scores(one, two) for one, two in combinations(scored, 2) if _same(one[1], two[1])]
    pairs = pairs[:MOST]
    return (
        [replace(pair, p=p) for pair, p in zip(pairs, holm([pair.p for pair in pairs]), strict=True)] if pairs else []
    )


def _same(one: EvaluationFacts, two: EvaluationFacts) -> bool:
    """Return whether the scores of two evaluations are of the same examples under the same protocol."""
    same = (one.protocol, one.n, one.seed) == (two.protocol, two.n, two.seed)
    data = one.data.get("sha256")
    return same and data is not None and data == two.data.get("sha256") and set(one.scores) == set(two.scores)


def _pair(one: Outcomes, two: Outcomes) -> Pair:
    only_first, only_second = len(two.broken - one.broken), len(one.broken - two.broken)
    return Pair(
        protocol=one.protocol,
        first=one.run,
        second=two.run,
        only_first=only_first,
        only_second=only_second,
        n=one.n,
        difference=(only_first - only_second) / one.n,
        interval=tango_interval(only_second, only_first, one.n),  # Tango's difference is second minus first
        p=mcnemar(only_first, only_second),
    )


def _pair_of_scores(one: tuple[str, EvaluationFacts], two: tuple[str, EvaluationFacts]) -> Pair:
    """Return the test of two mean scores on the same examples: McNemar's where scores are 0 or 1, else a bootstrap."""
    (first, a), (second, b) = one, two
    gains = np.array([a.scores[i] - b.scores[i] for i in sorted(a.scores)])
    n = len(gains)
    only_first, only_second = int((gains > 0).sum()), int((gains < 0).sum())
    known = a.protocol, first, second, only_first, only_second, n
    if set(a.scores.values()) | set(b.scores.values()) <= {0.0, 1.0}:
        interval, p = tango_interval(only_second, only_first, n), mcnemar(only_first, only_second)
        return Pair(*known, difference=float(gains.mean()), interval=interval, p=p)
    draws, gain = bootstrap_means(gains), float(gains.mean())
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p = min(1.0, 2 * (1 + beyond) / (1 + len(draws)))
    return Pair(*known, difference=gain, interval=quantile_interval(draws, gain), p=p, of_scores=True)

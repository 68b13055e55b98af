"""Two models on the very same images: who fell where the other stood, tested exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from advreg.report.comparison_table import labels
from advreg.report.facts import EvaluationFacts, Interval, RunFacts
from advreg.statistics import holm, mcnemar, tango_interval

MOST = 28  # pairs: eight runs with each other


@dataclass(frozen=True)
class Pair:
    """Two runs under one protocol on the same images.

    Attributes:
        protocol: frozen id.
        first, second: labels of the runs.
        only_first, only_second: images on which only that one stood.
        n: images.
        difference, interval: robust accuracy of the first less that of the second, with its exact 95% interval.
        p: exact McNemar, adjusted for the number of pairs (Holm).
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


def paired_tests(runs: Sequence[RunFacts]) -> list[Pair]:
    """Compare every two runs whose ledgers hold the same images under the same protocol.

    Args:
        runs: with ledgers; runs without one are left out.

    Returns:
        At most 28 pairs, none where nothing may be paired.
    """
    measured = [
        (name, facts)
        for name, run in zip(labels(runs), runs, strict=True)
        for facts in run.evaluations
        if facts.fallen is not None and facts.fallen.data
    ]
    both = [_pair(one, two) for one, two in combinations(measured, 2) if _same(one[1], two[1])][:MOST]
    return [replace(pair, p=p) for pair, p in zip(both, holm([pair.p for pair in both]), strict=True)] if both else []


def _same(one: EvaluationFacts, two: EvaluationFacts) -> bool:
    assert one.fallen is not None
    assert two.fallen is not None
    same = (one.protocol, one.n, one.seed) == (two.protocol, two.n, two.seed)
    return same and (one.fallen.data, one.fallen.total) == (two.fallen.data, two.fallen.total)


def _pair(one: tuple[str, EvaluationFacts], two: tuple[str, EvaluationFacts]) -> Pair:
    (first, a), (second, b) = one, two
    assert a.fallen is not None
    assert b.fallen is not None
    n = a.fallen.total
    only_first, only_second = len(b.fallen.ids - a.fallen.ids), len(a.fallen.ids - b.fallen.ids)
    return Pair(
        protocol=a.protocol,
        first=first,
        second=second,
        only_first=only_first,
        only_second=only_second,
        n=n,
        difference=(only_first - only_second) / n,
        interval=tango_interval(only_second, only_first, n),  # it is of its second less its first
        p=mcnemar(only_first, only_second),
    )

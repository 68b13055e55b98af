"""Exact paired tests of two models on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from advreg.report.comparison_table import labels
from advreg.report.facts import EvaluationFacts, Interval, RunFacts
from advreg.statistics import holm, mcnemar, tango_interval

MOST = 28
"""Largest number of pairs: eight runs with each other."""


@dataclass(frozen=True)
class Pair:
    """Two runs under one protocol on the same images.

    Attributes:
        protocol: id.
        first, second: labels of the runs.
        only_first, only_second: images on which only that model is robust.
        n: number of images.
        difference, interval: robust accuracy of the first minus that of the second, with its 95% interval (Tango).
        p: p-value of the exact McNemar test, adjusted for the number of pairs (Holm).
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
    """Test every two runs whose ledgers hold the same images under the same protocol.

    Args:
        runs: runs without a ledger are left out.

    Returns:
        At most 28 pairs.
    """
    measured = [
        (name, facts)
        for name, run in zip(labels(runs), runs, strict=True)
        for facts in run.evaluations
        if facts.ledger is not None and facts.ledger.data
    ]
    pairs = [_pair(one, two) for one, two in combinations(measured, 2) if _same(one[1], two[1])][:MOST]
    return (
        [replace(pair, p=p) for pair, p in zip(pairs, holm([pair.p for pair in pairs]), strict=True)] if pairs else []
    )


def _same(one: EvaluationFacts, two: EvaluationFacts) -> bool:
    assert one.ledger is not None
    assert two.ledger is not None
    same = (one.protocol, one.n, one.seed) == (two.protocol, two.n, two.seed)
    return same and (one.ledger.data, one.ledger.total) == (two.ledger.data, two.ledger.total)


def _pair(one: tuple[str, EvaluationFacts], two: tuple[str, EvaluationFacts]) -> Pair:
    (first, a), (second, b) = one, two
    assert a.ledger is not None
    assert b.ledger is not None
    n = a.ledger.total
    only_first, only_second = len(b.ledger.ids - a.ledger.ids), len(a.ledger.ids - b.ledger.ids)
    return Pair(
        protocol=a.protocol,
        first=first,
        second=second,
        only_first=only_first,
        only_second=only_second,
        n=n,
        difference=(only_first - only_second) / n,
        interval=tango_interval(only_second, only_first, n),  # Tango's difference is second minus first
        p=mcnemar(only_first, only_second),
    )

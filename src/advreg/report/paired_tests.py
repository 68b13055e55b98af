"""Exact paired tests of two models on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from advreg.report.comparison_table import labels
from advreg.report.facts import Interval, RunFacts
from advreg.report.outcomes import Outcomes, of_evaluation
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
    named = zip(labels(runs), runs, strict=True)
    measured = [each for name, run in named for facts in run.evaluations if (each := of_evaluation(name, facts))]
    pairs = [_pair(one, two) for one, two in combinations(measured, 2) if one.identity == two.identity][:MOST]
    return (
        [replace(pair, p=p) for pair, p in zip(pairs, holm([pair.p for pair in pairs]), strict=True)] if pairs else []
    )


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

"""A table that compares several runs, as plain data for the command line and the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from advreg.published import PublishedFigure
from advreg.report import read
from advreg.report.facts import EvaluationFacts, Interval, RunFacts
from advreg.report.formatting import threat_option


@dataclass(frozen=True)
class ComparisonRow:
    """One evaluation of one run; a run without an evaluation has a row without figures.

    Attributes:
        run: label of the run.
        protocol, threat: id of the protocol, and the threat model as ``--threat`` takes it.
        n, seed, data: examples, seed, and the fingerprint or name of the data.
        clean_accuracy, robust_accuracy, interval, attack_success_rate: the figures; the interval is that of robust accuracy.
        verdict: of the evaluation or its diagnosis.
        forwards, backwards, seconds: cost.
        published: figure of the model's authors or of RobustBench under the same threat.
    """

    run: str
    protocol: str | None = None
    threat: str | None = None
    n: int | None = None
    seed: int | None = None
    data: str | None = None
    clean_accuracy: float | None = None
    robust_accuracy: float | None = None
    interval: Interval | None = None
    attack_success_rate: float | None = None
    verdict: str | None = None
    forwards: int | None = None
    backwards: int | None = None
    seconds: float | None = None
    published: PublishedFigure | None = None


def comparison(runs: Iterable[Path | str]) -> list[ComparisonRow]:
    """Return a row for every evaluation of several runs.

    Args:
        runs: run folders.

    Returns:
        Rows ordered by protocol, and within a protocol by decreasing robust accuracy.

    Raises:
        RunError: a folder is not a run folder, or a file in it is damaged.
    """
    return rows([read.run(run) for run in runs])


def rows(runs: Sequence[RunFacts]) -> list[ComparisonRow]:
    """Return the rows of runs that are already read, in the order of `comparison`.

    Args:
        runs: facts of the runs.

    Returns:
        One row for each evaluation.
    """
    unordered = [row for name, run in zip(labels(runs), runs, strict=True) for row in _rows(name, run)]
    return sorted(unordered, key=lambda row: (row.protocol is None, row.protocol or "", -(row.robust_accuracy or 0.0)))


def labels(runs: Sequence[RunFacts]) -> list[str]:
    """Return a label for each run: the shortest end of its path that is unique.

    Args:
        runs: facts of the runs.

    Returns:
        One label for each run.

    Example:
        >>> labels([RunFacts(Path("a/net")), RunFacts(Path("b/net"))])
        ['a/net', 'b/net']
    """
    most = max((len(run.path.parts) for run in runs), default=1)
    for length in range(1, most + 1):
        names = ["/".join(run.path.parts[-length:]) for run in runs]
        if len(set(names)) == len({run.path for run in runs}):
            return names
    return [str(run.path) for run in runs]


def differences(rows: Sequence[ComparisonRow]) -> list[str]:
    """Return the reasons against comparing rows with each other; empty where there is none.

    Args:
        rows: rows of a comparison.

    Returns:
        Sentences.

    Example:
        >>> differences([ComparisonRow("a", protocol="linf-0.1-quick@1"), ComparisonRow("b", protocol="linf-0.1-fgsm@1")])
        ['The protocols differ: compare figures only within one protocol.']
    """
    measured = [row for row in rows if row.protocol is not None]
    reasons = []
    if len({row.protocol for row in measured}) > 1:
        reasons.append("The protocols differ: compare figures only within one protocol.")
    if len({(row.data, row.n, row.seed) for row in measured}) > 1:
        reasons.append("The images differ (data set, number or seed): small differences in accuracy mean nothing.")
    unreliable = sorted({row.run for row in measured if row.verdict == "UNRELIABLE"})
    if unreliable:
        reasons.append(f"UNRELIABLE by diagnosis, do not use: {', '.join(unreliable)}.")
    return reasons


def _rows(name: str, run: RunFacts) -> list[ComparisonRow]:
    return [_row(name, evaluation) for evaluation in run.evaluations] or [ComparisonRow(run=name)]


def _row(name: str, evaluation: EvaluationFacts) -> ComparisonRow:
    identity = evaluation.data.get("sha256") or evaluation.data.get("name")
    return ComparisonRow(
        run=name,
        protocol=evaluation.protocol,
        threat=threat_option(evaluation.threat),
        n=evaluation.n,
        seed=evaluation.seed,
        data=str(identity) if identity else None,
        clean_accuracy=evaluation.clean_accuracy,
        robust_accuracy=evaluation.robust_accuracy,
        interval=evaluation.interval,
        attack_success_rate=evaluation.attack_success_rate if evaluation.task == "classes" else None,
        verdict=evaluation.verdict,
        forwards=evaluation.forwards,
        backwards=evaluation.backwards,
        seconds=evaluation.seconds,
        published=evaluation.published,
    )

"""Several runs as the rows of one table, plain data for the command line and the page alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from advreg.report import read
from advreg.report.facts import EvaluationFacts, Interval, RunFacts
from advreg.report.formatting import threat_option


@dataclass(frozen=True)
class Row:
    """One evaluation of one run; a run that was only trained has a row without figures."""

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


def comparison(runs: Iterable[Path | str]) -> list[Row]:
    """Every evaluation of every run, those of one protocol together.

    Args:
        runs: run folders.

    Returns:
        Rows ordered by protocol, and within one by robust accuracy, the best first.

    Raises:
        RunError: a folder is not a run folder, or a file in it is damaged.
    """
    return rows([read.run(run) for run in runs])


def rows(runs: Sequence[RunFacts]) -> list[Row]:
    """The rows of runs that are read already; see `comparison`."""
    made = [row for name, run in zip(labels(runs), runs, strict=True) for row in _rows(name, run)]
    return sorted(made, key=lambda row: (row.protocol is None, row.protocol or "", -(row.robust_accuracy or 0.0)))


def labels(runs: Sequence[RunFacts]) -> list[str]:
    """The shortest ends of the runs' paths that tell them apart.

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


def differences(rows: Sequence[Row]) -> list[str]:
    """Why rows may not be compared with each other, in words; empty where they may.

    Example:
        >>> differences([Row("a", protocol="linf-0.1-quick@1"), Row("b", protocol="linf-0.1-quick@1")])
        []
    """
    measured = [row for row in rows if row.protocol is not None]
    reasons = []
    if len({row.protocol for row in measured}) > 1:
        reasons.append("The protocols differ: compare figures only within one protocol.")
    if len({(row.data, row.n, row.seed) for row in measured}) > 1:
        reasons.append("The images differ (data set, number or seed): small differences in accuracy mean nothing.")
    unreliable = sorted({row.run for row in measured if row.verdict == "UNRELIABLE"})
    if unreliable:
        reasons.append(f"Judged UNRELIABLE, so not to be used: {', '.join(unreliable)}.")
    return reasons


def _rows(name: str, run: RunFacts) -> list[Row]:
    return [_row(name, evaluation) for evaluation in run.evaluations] or [Row(run=name)]


def _row(name: str, evaluation: EvaluationFacts) -> Row:
    identity = evaluation.data.get("sha256") or evaluation.data.get("name")
    return Row(
        run=name,
        protocol=evaluation.protocol,
        threat=threat_option(evaluation.threat),
        n=evaluation.n,
        seed=evaluation.seed,
        data=str(identity) if identity else None,
        clean_accuracy=evaluation.clean_accuracy,
        robust_accuracy=evaluation.robust_accuracy,
        interval=evaluation.interval,
        attack_success_rate=evaluation.attack_success_rate,
        verdict=evaluation.verdict,
        forwards=evaluation.forwards,
        backwards=evaluation.backwards,
        seconds=evaluation.seconds,
    )

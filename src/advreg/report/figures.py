"""The figures and tables of a run outside its page: PNG files, CSV files, and one PDF."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from advreg.report import charts, html, prose, read
from advreg.report.facts import EpochFacts, EvaluationFacts, RunFacts
from advreg.report.formatting import interval, percent, threat_option
from advreg.report.svg import drawing, paint
from advreg.runs import RunFolder
from advreg.runs.files import write_atomic
from advreg.version import __version__

Table = tuple[Sequence[str], Sequence[Sequence[object]]]
"""Headings and rows."""
DPI = 150
_PAGE = (8.27, 11.69)  # A4, in inches


def figures(run: RunFacts) -> dict[str, Figure]:
    """Return the figures of a run by name, in the colours of the page on white.

    Args:
        run: facts of the run.

    Returns:
        ``training``, and ``attacks-<protocol>`` and ``curve-<protocol>`` of each evaluation, where they were measured.
    """
    found = {"training": charts.training_figure(run.epochs, run.events, run.figures.short)}
    for facts in run.evaluations:
        found[f"attacks-{facts.protocol}"] = charts.attacks_figure(facts) if facts.attacks else None
        found[f"curve-{facts.protocol}"] = charts.robustness_figure(facts)
    return {name: paint(figure) for name, figure in found.items() if figure is not None}


def tables(run: RunFacts) -> dict[str, Table]:
    """Return the tables of a run by name: evaluations, attacks, classes, curves and epochs.

    Args:
        run: facts of the run.

    Returns:
        Headings and rows of each table that has rows; shares are numbers from 0 to 1.
    """
    every = {
        "evaluations": (_EVALUATION, [_evaluation(facts) for facts in run.evaluations]),
        "attacks": (("protocol", *_ATTACK), _parts(run, "attacks", _ATTACK)),
        "classes": (("protocol", *_CLASS), _parts(run, "per_class", _CLASS)),
        "curves": (("protocol", *_POINT), _points(run)),
        "epochs": (_EPOCH, [[getattr(epoch, name) for name in _EPOCH] for epoch in run.epochs]),
    }
    return {name: table for name, table in every.items() if table[1]}


_EVALUATION = (
    "protocol", "threat", "n", "seed", "clean_accuracy", "clean_low", "clean_high", "robust_accuracy", "robust_low",
    "robust_high", "attack_success_rate", "forwards", "backwards", "seconds", "verdict",
)  # fmt: skip
_ATTACK = ("name", "tried", "broken", "robust_accuracy", "forwards", "backwards", "seconds")
_CLASS = ("name", "n", "clean_accuracy", "robust_accuracy")
_POINT = ("norm", "attack", "n", "eps", "robust_accuracy", "low", "high")
_EPOCH = tuple(field.name for field in fields(EpochFacts))


def _evaluation(facts: EvaluationFacts) -> list[object]:
    found: dict[str, Any] = {name: getattr(facts, name, None) for name in _EVALUATION}
    found["threat"] = threat_option(facts.threat)
    found["clean_low"], found["clean_high"] = facts.clean_interval or (None, None)
    found["robust_low"], found["robust_high"] = facts.interval or (None, None)
    return [found[name] for name in _EVALUATION]


def _parts(run: RunFacts, part: str, names: Sequence[str]) -> list[list[object]]:
    return [
        [facts.protocol, *(getattr(row, name) for name in names)]
        for facts in run.evaluations
        for row in getattr(facts, part)
    ]


def _points(run: RunFacts) -> list[list[object]]:
    curves = [(facts.protocol, facts.curve) for facts in run.evaluations if facts.curve is not None]
    return [
        [
            protocol,
            curve.norm,
            curve.attack,
            curve.n,
            point.eps,
            point.robust_accuracy,
            *(point.interval or (None, None)),
        ]
        for protocol, curve in curves
        for point in curve.points
    ]


def csv_text(table: Table) -> str:
    """Return a table as CSV.

    Args:
        table: headings and rows.

    Returns:
        The text; a value that is missing is empty.

    Example:
        >>> csv_text((["eps", "accuracy"], [[0.1, None]]))
        'eps,accuracy\\n0.1,\\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([table[0], *table[1]])
    return text.getvalue()


def write_csv(run: RunFacts, folder: Path | str) -> list[Path]:
    """Write each table of a run as a CSV file.

    Args:
        run: facts of the run.
        folder: made where it is missing.

    Returns:
        The files.
    """
    place = RunFolder.at(folder)
    return [place.write(f"{name}.csv", csv_text(table)) for name, table in tables(run).items()]


def write_png(run: RunFacts, folder: Path | str) -> list[Path]:
    """Write each figure of a run as a PNG file.

    Args:
        run: facts of the run.
        folder: made where it is missing.

    Returns:
        The files.
    """
    place = RunFolder.at(folder)
    return [place.write(f"{name}.png", png(figure)) for name, figure in figures(run).items()]


def png(figure: Figure) -> bytes:
    """Return a painted figure as PNG; the same figure gives the same bytes.

    Args:
        figure: from `figures`.
    """
    buffer = io.BytesIO()
    with drawing():
        figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": f"advreg {__version__}"})
    return buffer.getvalue()


def write_pdf(run: RunFacts, file: Path | str) -> Path:
    """Write the figures in words and the charts of a run as one PDF, a page each; the same run gives the same bytes.

    Args:
        run: facts of the run.
        file: the file.

    Returns:
        The file.
    """
    buffer = io.BytesIO()
    metadata = {"Title": f"Robustness of {run.name}", "Creator": f"advreg {__version__}", "CreationDate": None}
    with drawing(), PdfPages(buffer, metadata=metadata) as pages:
        pages.savefig(_cover(run))
        for name, figure in figures(run).items():
            figure.suptitle(name)
            pages.savefig(figure, facecolor="white")
    write_atomic(Path(file), buffer.getvalue())
    return Path(file)


def _cover(run: RunFacts) -> Figure:
    figure = Figure(figsize=_PAGE, facecolor="white")
    lines = [line for facts in run.evaluations for line in (*_lines(facts), "")]
    figure.text(0.1, 0.93, f"Robustness of {run.name}", fontsize=18, color="black")
    text = "\n".join([*lines[:60], prose.UPPER_BOUND.replace(". ", ".\n"), f"advreg {__version__}"])
    figure.text(0.1, 0.9, text, fontsize=10, color="black", va="top", linespacing=1.5)
    return figure


def _lines(facts: EvaluationFacts) -> list[str]:
    n, verdict = facts.n, facts.verdict or "not diagnosed"
    clean = f"clean accuracy {percent(facts.clean_accuracy, n)} ({interval(facts.clean_interval, n)})"
    robust = f"robust accuracy {percent(facts.robust_accuracy, n)} ({interval(facts.interval, n)})"
    return [f"{facts.protocol}, {n} examples, seed {facts.seed}: {verdict}", clean, robust]


def artefacts(run: Path) -> tuple[Mapping[str, bytes], Path]:
    """Return the figures of a run as PNG by name and its page, for trackers.

    Args:
        run: the run folder.

    Returns:
        Pictures, and the path of the page, which is written.
    """
    return {name: png(figure) for name, figure in figures(read.run(run)).items()}, html.write(run)

"""The verb ``report``: one HTML page about a run, and on request JUnit XML, thresholds and a model card."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from advreg import report
from advreg.cli.resolution import point_to_text_verbs
from advreg.report import read
from advreg.runs.files import write_atomic


@dataclass(frozen=True)
class ReportOptions:
    """Options of ``advreg report``.

    Attributes:
        run: the run folder.
        out: the HTML file; ``report.html`` in the run folder if None.
        junit: JUnit XML file to write.
        fail_under: thresholds, ``figure=share`` each.
        model_card: markdown file to write.
        as_json: print one JSON object instead of text.
    """

    run: Path
    out: Path | None = None
    junit: Path | None = None
    fail_under: tuple[str, ...] = ()
    model_card: Path | None = None
    as_json: bool = False


def run_report(options: ReportOptions) -> bool:
    """Return whether every threshold is reached, after writing the page and the other files that the options name.

    Args:
        options: options of ``advreg report``.

    Returns:
        True where no threshold is missed.
    """
    point_to_text_verbs(options.run, "report")
    thresholds = [report.Threshold.parse(text) for text in options.fail_under]
    files = {"html": report.write(options.run, options.out)}
    cases: list[report.Case] = []
    if options.junit or thresholds or options.model_card:
        facts = read.run(options.run)
        if options.junit or thresholds:
            cases = report.cases(facts, thresholds)
        if options.junit:
            write_atomic(options.junit, report.junit(facts, cases))
            files["junit"] = options.junit
        if options.model_card:
            write_atomic(options.model_card, report.model_card(facts))
            files["model_card"] = options.model_card
    _print(files, cases, as_json=options.as_json)
    return not any(case.problem for case in cases)


def _print(files: dict[str, Path], cases: list[report.Case], *, as_json: bool) -> None:
    """Print the files that were written, and on standard error each threshold that was missed."""
    if as_json:
        paths = {name: str(path) for name, path in files.items()}
        typer.echo(json.dumps({"files": paths, "cases": [asdict(case) for case in cases]}))
        return
    for path in files.values():
        typer.echo(path)
    for case in cases:
        if case.problem:
            typer.echo(f"{case.protocol}: {case.problem}", err=True)

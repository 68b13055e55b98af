"""The verb ``report``: one HTML page about a run, and on request JUnit XML, thresholds and a model card."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from advreg import report
from advreg.cli.resolution import point_to_text_verbs
from advreg.report import figures, read
from advreg.report.facts import RunFacts
from advreg.runs.files import write_atomic
from advreg.trainer import loggers
from advreg.trainer.events import Finished, Started


@dataclass(frozen=True)
class ReportOptions:
    """Options of ``advreg report``.

    Attributes:
        run: the run folder.
        out: the HTML file; ``report.html`` in the run folder if None.
        junit: JUnit XML file to write.
        fail_under: thresholds, ``figure=share`` each.
        model_card: markdown file to write.
        png, csv: folders for the figures and for the tables.
        pdf: PDF file to write.
        logs: trackers that get the figures and the page: tensorboard, mlflow, wandb.
        as_json: print one JSON object instead of text.
    """

    run: Path
    out: Path | None = None
    junit: Path | None = None
    fail_under: tuple[str, ...] = ()
    model_card: Path | None = None
    png: Path | None = None
    csv: Path | None = None
    pdf: Path | None = None
    logs: tuple[str, ...] = ()
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
    html = report.write(options.run, options.out)
    facts = read.run(options.run)
    cases = report.cases(facts, thresholds) if options.junit or thresholds else []
    files = {"html": html, **_write_texts(options, facts, cases), **_write_figures(options, facts)}
    for name in options.logs:
        _log(options.run, name)
    _print(files, cases, as_json=options.as_json)
    return not any(case.problem for case in cases)


def _write_texts(options: ReportOptions, facts: RunFacts, cases: list[report.Case]) -> dict[str, Path]:
    """Write JUnit XML and the model card where the options name a file, and return the files."""
    files = {}
    if options.junit:
        write_atomic(options.junit, report.junit(facts, cases))
        files["junit"] = options.junit
    if options.model_card:
        write_atomic(options.model_card, report.model_card(facts))
        files["model_card"] = options.model_card
    return files


def _write_figures(options: ReportOptions, facts: RunFacts) -> dict[str, Path]:
    """Write figures, tables and the PDF where the options name a place, and return the files."""
    found = [] if options.png is None else figures.write_png(facts, options.png)
    found += [] if options.csv is None else figures.write_csv(facts, options.csv)
    found += [] if options.pdf is None else [figures.write_pdf(facts, options.pdf)]
    return {file.name: file for file in found}


def _log(run: Path, name: str) -> None:
    """Send the figures and the page to a tracker, as a run that has only an end."""
    sink = loggers.LOGGERS.build(name, None, figures.artefacts)
    sink(Started(run, epochs=1, steps=1))
    sink(Finished(epochs=1, best_epoch=1, step=1, steps=1))


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

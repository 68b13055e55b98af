"""The verb ``compare``: several runs in one table, exact paired tests, and a baseline that no run may fall below."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from advreg.cli import tables
from advreg.errors import ConfigError
from advreg.report import baseline, comparison_table, html, paired_tests, read, training_table
from advreg.report.facts import RunFacts


@dataclass(frozen=True)
class CompareOptions:
    """Options of ``advreg compare``.

    Attributes:
        runs: run folders.
        baseline: a run folder or the name of a stored baseline.
        fail_if_worse: whether a run that is worse than the baseline gives exit status 1.
        save_baseline: name to store the only run under.
        html: HTML page to write.
        as_json: print one JSON object instead of text.
    """

    runs: Sequence[Path]
    baseline: str | None = None
    fail_if_worse: bool = False
    save_baseline: str | None = None
    html: Path | None = None
    as_json: bool = False


def run_compare(options: CompareOptions) -> bool:
    """Return whether no run is worse than the baseline, or nothing depends on it, after printing the comparison.

    Args:
        options: options of ``advreg compare``.

    Returns:
        False only with ``fail_if_worse``, where an exact paired test or a diagnosis speaks against a run.

    Raises:
        ConfigError: options that do not belong together.
    """
    _check(options)
    runs = [read.run(run) for run in options.runs]
    changes = baseline.changes(runs, baseline.find(options.baseline)) if options.baseline else []
    (_print_json if options.as_json else _print_tables)(runs, changes)
    if options.html is not None:
        typer.echo(html.write_page(html.comparison_page(runs, changes), "", options.html), err=options.as_json)
    if options.save_baseline:
        typer.echo(baseline.save(options.runs[0], options.save_baseline), err=options.as_json)
    problems = [change.problem for change in changes if change.problem]
    for problem in problems:
        typer.echo(f"worse than {options.baseline}: {problem}", err=True)
    return not (options.fail_if_worse and problems)


def _check(options: CompareOptions) -> None:
    if options.fail_if_worse and not options.baseline:
        raise ConfigError("--fail-if-worse needs a baseline: add --baseline RUN, or the name of a stored one")
    if options.save_baseline and len(options.runs) != 1:
        raise ConfigError(f"--save-baseline stores one run, {len(options.runs)} are given; give the one to store")


def _print_tables(runs: Sequence[RunFacts], changes: Sequence[baseline.Change]) -> None:
    tables.show(tables.comparison(comparison_table.rows(runs)))
    if trained := training_table.rows(runs):
        tables.show(tables.trainings(trained))
    if pairs := paired_tests.paired_tests(runs):
        tables.show(tables.pairs(pairs))
    if changes:
        tables.show(tables.changes(changes))


def _print_json(runs: Sequence[RunFacts], changes: Sequence[baseline.Change]) -> None:
    """Print the rows as a list; with a baseline, as an object that has the changes too."""
    cost = {(row.run, row.threat): asdict(row) for row in training_table.rows(runs)}
    rows = [{**asdict(row), "training": cost.get((row.run, row.threat))} for row in comparison_table.rows(runs)]
    against = [{**asdict(change), "problem": change.problem} for change in changes]
    typer.echo(json.dumps({"runs": rows, "changes": against} if changes else rows))

"""The verb ``compare``: several runs in one table, exact paired tests, and a baseline that no run may fall below."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from advreg.cli import tables
from advreg.errors import ConfigError
from advreg.report import baseline, training_table
from advreg.report.compared_runs import Comparison, compare


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
    found = compare(*options.runs, baseline=options.baseline)
    (_print_json if options.as_json else _print_tables)(found)
    if options.html is not None:
        typer.echo(found.write(options.html), err=options.as_json)
    if options.save_baseline:
        typer.echo(baseline.save(options.runs[0], options.save_baseline), err=options.as_json)
    for problem in found.problems:
        typer.echo(f"worse than {options.baseline}: {problem}", err=True)
    return not (options.fail_if_worse and found.problems)


def _check(options: CompareOptions) -> None:
    if options.fail_if_worse and not options.baseline:
        raise ConfigError("--fail-if-worse needs a baseline: add --baseline RUN, or the name of a stored one")
    if options.save_baseline and len(options.runs) != 1:
        raise ConfigError(f"--save-baseline stores one run, {len(options.runs)} are given; give the one to store")


def _print_tables(found: Comparison) -> None:
    tables.show(tables.comparison(found.rows))
    if trained := training_table.rows(found.runs):
        tables.show(tables.trainings(trained))
    if pairs := found.pairs:
        tables.show(tables.pairs(pairs))
    if found.changes:
        tables.show(tables.changes(found.changes))


def _print_json(found: Comparison) -> None:
    """Print the rows as a list; with a baseline, as an object that has the changes too."""
    cost = {(row.run, row.threat): asdict(row) for row in training_table.rows(found.runs)}
    rows = [{**asdict(row), "training": cost.get((row.run, row.threat))} for row in found.rows]
    against = [{**asdict(change), "problem": change.problem} for change in found.changes]
    typer.echo(json.dumps({"runs": rows, "changes": against} if against else rows))

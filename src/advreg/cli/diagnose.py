"""The verb ``diagnose``: fill in what a run folder knows, ask, print the answers, write them down."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer
from rich.table import Table

from advreg import data as datasets
from advreg import models
from advreg.cli import progress, tables
from advreg.cli.resolution import ModelSource
from advreg.diagnosis import Diagnosis, diagnose
from advreg.errors import ModelError
from advreg.plugins import call_factory
from advreg.results.checks import Check


def run_diagnose(
    model: str,
    data: str | None,
    threat: str | None,
    weights: Path | None,
    n: int,
    quick: bool,
    adapt: bool,
    backward: str | None,
    out: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Diagnose a run folder or a model by name; arguments as on the command line. Status 1 unless TRUSTED."""
    source = ModelSource.of(model)
    name, chosen, folder = source.data(data), source.threat(threat), source.output(out)
    network = models.load(model, weights=weights)
    train, test = datasets.load(name)
    own = call_factory(backward, ModelError) if backward else None
    with progress.diagnosing(quiet=as_json) as watch:
        found = diagnose(
            network, test, chosen, n, quick=quick, adapt=adapt, train=train, backward=own,
            seed=seed, out=folder, on_progress=watch,
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found.record()))
    else:
        _show(found)
        if folder is not None:
            print(f"written: {folder / 'diagnosis.json'}; draw it with: advreg report {folder}", file=sys.stderr)
    if found.verdict != "TRUSTED":
        raise typer.Exit(1)


def _show(found: Diagnosis) -> None:
    tables.show(checks_table(found))
    if found.adapted is not None:
        tables.show(_adapted_table(found))
    figure = f"{tables.percent(found.robust_accuracy)} {tables.span(found.interval)}"
    typer.echo(f"{found.claim} says {figure} on {found.n} examples: {found.verdict}")
    for check in found.checks:
        if check.remedy:
            typer.echo(f"  {check.name}: {check.says}; {check.cause}: {check.remedy} ({check.link})")
    if found.adapted is not None:
        by = f", most by {found.adapted.means}" if found.adapted.means else ""
        typer.echo(f"adaptive attacks leave {tables.percent(found.adapted.robust_accuracy)}{by}")


def checks_table(found: Diagnosis) -> Table:
    """Return the table of all checks."""
    rows = [
        (f"{check.group}  {check.name}", check.verdict, _measured(check), _bound(check), check.source)
        for check in found.checks
    ]
    title = f"{found.claim}, {found.threat}, {found.n} examples, {tables.minutes(found.seconds)}"
    return tables.table(title, ("check", "verdict", "measured [95% interval]", "threshold", "from"), rows)


def _measured(check: Check) -> str:
    if check.measured is None:
        return check.says if len(check.says) < 60 else f"{check.says[:57]}..."
    if check.interval is not None:
        return f"{tables.percent(check.measured)} {tables.span(check.interval)}"
    return f"{check.measured:.3g}"


def _bound(check: Check) -> str:
    if check.threshold is None:
        return "-"
    return f"{check.threshold:g}" if check.limit is None else f"{check.threshold:g}, fails above {check.limit:g}"


def _adapted_table(found: Diagnosis) -> Table:
    assert found.adapted is not None
    rows = [
        (a.means, str(a.tried), str(a.broken), tables.percent(a.robust_accuracy), a.failed[:60] or f"{a.seconds:.1f} s")
        for a in found.adapted.attempts
    ]
    return tables.table("adaptive attacks", ("means", "tried", "broken", "accuracy", "seconds"), rows)

"""The verb ``diagnose``: check whether a robust accuracy can be trusted, and print and save every check."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import typer
from rich.table import Table

from advreg import models
from advreg.cli import progress, tables
from advreg.cli.resolution import ModelSource
from advreg.diagnosis import Diagnosis, diagnose
from advreg.errors import ModelError
from advreg.plugins import call_factory
from advreg.results.checks import Check
from advreg.tasks import CLASSES


@dataclass(frozen=True)
class DiagnoseOptions:
    """Options of ``advreg diagnose``.

    Attributes:
        model: a run folder or the name of a model.
        data, threat: the run's own if None.
        box: lowest and highest valid value of an input, ``low,high``; that of data or run if empty.
        features: ``features.toml`` with types, limits and units of the columns; the run's own if None.
        weights: safetensors or state dict.
        n: test examples, from the first.
        quick: use fewer examples, queries and checks.
        adapt: also run adaptive attacks.
        backward: factory of a backward pass for the adaptive attacks, ``pkg.module:factory``.
        task: name of a task with its options, or ``pkg.module:factory``; the run's own, or classes, if None.
        out: folder to write into; the run folder if None.
        seed: of all random draws.
        as_json: print one JSON object instead of text.
    """

    model: str
    data: str | None = None
    threat: str | None = None
    box: str = ""
    features: Path | None = None
    weights: Path | None = None
    n: int = 500
    quick: bool = False
    adapt: bool = False
    backward: str | None = None
    task: str | None = None
    out: Path | None = None
    seed: int = 0
    as_json: bool = False


def run_diagnose(options: DiagnoseOptions) -> bool:
    """Return whether the verdict is TRUSTED, after a diagnosis of a run folder or a model by name.

    Args:
        options: options of ``advreg diagnose``.

    Returns:
        True for TRUSTED.
    """
    source = ModelSource.of(options.model)
    task = source.task(options.task)
    sets = cache(lambda: source.data_sets(options.data, task))
    threat = source.threat(options.threat, options.box, options.features, sets)
    folder = source.output(options.out)
    model = models.load(options.model, weights=options.weights)
    train, test = sets()
    if task is not CLASSES:
        found = diagnose(
            model,
            test,
            threat,
            options.n,
            seed=options.seed,
            out=folder,
            task=task,
            adapt=options.adapt,
        )
        return _show(found, folder, as_json=options.as_json)
    with progress.diagnosing(quiet=options.as_json) as watch:
        found = diagnose(
            model,
            test,
            threat,
            options.n,
            quick=options.quick,
            adapt=options.adapt,
            train=train,
            backward=call_factory(options.backward, ModelError) if options.backward else None,
            seed=options.seed,
            out=folder,
            on_progress=watch,
        )
    return _show(found, folder, as_json=options.as_json)


def _show(found: Diagnosis, folder: Path | None, *, as_json: bool) -> bool:
    """Print a diagnosis, and return whether its verdict is TRUSTED."""
    if as_json:
        typer.echo(json.dumps(found.record()))
        return found.verdict == "TRUSTED"
    _print(found)
    if folder is not None:
        print(f"written: {folder / 'diagnosis.json'}; to draw it: advreg report {folder}", file=sys.stderr)
    return found.verdict == "TRUSTED"


def _print(found: Diagnosis) -> None:
    tables.show(checks_table(found))
    if found.adapted is not None:
        tables.show(_adapted_table(found))
    figure = f"{tables.percent(found.robust_accuracy)} {tables.span(found.interval)}"
    typer.echo(f"{found.claim} reports {figure} on {found.n} examples: {found.verdict}")
    for check in found.checks:
        if check.remedy:
            typer.echo(f"  {check.name}: {check.says}; {check.cause}: {check.remedy} ({check.link})")
    if found.adapted is not None:
        strongest = f", strongest: {found.adapted.means}" if found.adapted.means else ""
        typer.echo(
            f"robust accuracy under adaptive attacks: {tables.percent(found.adapted.robust_accuracy)}{strongest}"
        )


def checks_table(found: Diagnosis) -> Table:
    """Return the table of all checks: verdict, measurement, threshold, and where the measurement comes from.

    Args:
        found: the diagnosis.

    Returns:
        The table.
    """
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
    return tables.table("adaptive attacks", ("attack", "tried", "broken", "accuracy", "seconds"), rows)

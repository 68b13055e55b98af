"""The verb ``leaderboard``: the evaluated runs under a folder, ranked within each protocol."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer
from rich.table import Table

from advreg.cli import tables
from advreg.report.leaderboard import Group, leaderboard, write_leaderboard


def run_leaderboard(folder: Path, html: Path | None, *, as_json: bool) -> None:
    """Print the leaderboard of a folder, and write its page.

    Args:
        folder: holds run folders at any depth.
        html: the page; ``leaderboard.html`` in the folder if None.
        as_json: print one JSON object instead.
    """
    found = leaderboard(folder)
    page = write_leaderboard(found, html)
    for name, reason in found.left_out:
        typer.echo(f"left out {name}: {reason}", err=True)
    if as_json:
        typer.echo(json.dumps({"groups": [asdict(group) for group in found.groups], "page": str(page)}))
        return
    for group in found.groups:
        tables.show(_table(group))
    typer.echo(page)


def _table(group: Group) -> Table:
    columns = ("rank", "run", "clean", "robust", "95% interval", "published", "verdict")
    rows = [
        (
            "-" if place.rank is None else str(place.rank),
            place.row.run,
            tables.percent(place.row.clean_accuracy),
            tables.percent(place.row.robust_accuracy),
            tables.span(place.row.interval),
            tables.percent(place.row.published.robust if place.row.published else None),
            place.row.verdict or "-",
        )
        for place in group.places
    ]
    return tables.table(f"{group.protocol}, {group.n} examples, seed {group.seed}", columns, rows)

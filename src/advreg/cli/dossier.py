"""The verb ``dossier``: fields of standards filled from a run, as HTML, JSON and markdown."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from advreg.cli import tables
from advreg.cli.resolution import point_to_text_verbs
from advreg.report import dossier, read


def run_dossier(run: Path, out: Path | None, *, as_json: bool) -> None:
    """Write the dossier of a run, and print how much of each standard was measured.

    Args:
        run: the run folder.
        out: folder for the files; the run folder if None.
        as_json: print the dossier as one JSON object instead.
    """
    point_to_text_verbs(run, "report")
    files = dossier.write_dossier(run, out)
    facts = read.run(run)
    if as_json:
        typer.echo(json.dumps(dossier.record(facts)))
        return
    rows = [(each.name, str(each.measured), str(len(each.fields))) for each in dossier.dossier(facts)]
    tables.show(tables.table("", ("standard", "measured", "of"), rows))
    for file in files:
        typer.echo(file)

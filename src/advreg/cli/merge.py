"""The verb ``merge``: join the shards of an evaluation."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from advreg import report
from advreg.cli.evaluate import print_evaluation
from advreg.engines.merge import find_shards, require_one_measurement
from advreg.evaluation.shards import merge_shards


def run_merge(parts: Sequence[Path], out: Path, *, as_json: bool = False) -> None:
    """Join shards and print the figures.

    Args:
        parts: folders or ledgers that ``--shard`` wrote.
        out: run folder.
        as_json: print one JSON object instead of text.
    """
    shards = find_shards(parts)
    require_one_measurement(shards)
    found = merge_shards(shards, out)
    if found is None:
        typer.echo(
            f"{out}: the ledger is whole; for the figures, which no attack runs again for: advreg evaluate --out {out}"
        )
    elif as_json:
        typer.echo(json.dumps(found.record()))
    else:
        print_evaluation(found)
        print(f"report: {report.write(out)}", file=sys.stderr)

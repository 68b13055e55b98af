"""The verb ``language sweep``: train and evaluate a grid of settings, and recommend one."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from advreg.cli import progress, tables
from advreg.cli.language_inputs import (
    parse_attacks,
    prompt_sizes,
    read_data,
    read_judges,
    read_rows,
)
from advreg.cli.language_options import DataFiles, EvaluationOptions, SweepOptions
from advreg.errors import ConfigError
from advreg.language.config import LanguageConfig
from advreg.language.datasets import read_refusal_examples
from advreg.language.sweep.plan import SweepGrid, split_data
from advreg.language.sweep.run import FILE, SweepEvaluation, SweepProgress, sweep
from advreg.report.language_tables import setting_table


def _numbers(option: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """Parse numbers separated by commas."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as cause:
        raise ConfigError(f"{option} is {text!r}; give {kind.__name__} numbers separated by commas") from cause


def run_sweep(
    files: DataFiles, settings: SweepOptions, options: EvaluationOptions, *, out: Path, as_json: bool
) -> None:
    """Run a sweep and print every setting and the recommendation.

    Args:
        files: the data files.
        settings: model and grid.
        options: how to evaluate each setting.
        out: folder of the sweep; the same folder resumes.
        as_json: print one JSON object instead of text.
    """
    grid = SweepGrid(
        mixes=_numbers("--mix", settings.mixes, float),
        rates=_numbers("--lr", settings.rates, float),
        seeds=_numbers("--seeds", settings.seeds, int),
        scales=_numbers("--scales", settings.scales, float),
        budget=settings.budget,
    )
    changes = [f"model.name={settings.model}", f"train.device={options.device}", *(settings.changes or [])]
    config = LanguageConfig().replace_with(changes)
    judges = read_judges(files.labels, options)
    evaluation = SweepEvaluation(
        attacks=parse_attacks(options.attacks),
        scale_attacks=parse_attacks(settings.scale_attacks or ["direct", "roleplay"]),
        judge=judges.refusals,
        harm=judges.harm,
        rater=judges.rater,
        max_new_tokens=options.tokens,
        task_tokens=options.task_tokens,
        dtype=options.dtype,
        seed=options.seed,
    )
    adversarial = read_rows(settings.adversarial, read_refusal_examples)
    sizes = prompt_sizes(options.n)
    data = split_data(read_data(files), adversarial, n=sizes, n_validation=settings.n_validation, seed=options.seed)
    command = shlex.join(["advreg", *sys.argv[1:]])
    seen: set[str] = set()
    with progress.stages("sweep", quiet=as_json) as show:

        def watch(at: SweepProgress) -> None:
            show(
                f"{at.name}: {at.part}",
                at.done,
                at.total,
                "" if at.name in seen else f"{at.place}/{at.places}  {at.name}",
            )
            seen.add(at.name)

        record = sweep(config, grid, data, evaluation, out=out, command=command, on_progress=watch)
    if as_json:
        typer.echo(json.dumps(record))
        return
    headings, rows = setting_table(record)
    cells = [(row.name, *row.cells, " ".join(row.marks)) for row in rows]
    tables.show(tables.table("", (*headings, ""), cells))
    typer.echo(f"{conclusion(record)}\nwritten: {out / FILE}; for a page with charts: advreg language report {out}")


def conclusion(record: Mapping[str, Any]) -> str:
    """Return the recommendation in one sentence, or the reason why there is none.

    Args:
        record: the content of sweep.json.

    Example:
        >>> conclusion({"recommended": None, "nearest": None, "settings": []})
        'no setting was evaluated: every training failed'
    """
    for key, label in (("recommended", "recommended"), ("nearest", "no setting qualifies; the nearest is")):
        if record[key]:
            row = record["settings"][record[key]["index"]]
            return f"{label}: {row['run']} at scale {row['scale']:g} ({record[key]['why']})"
    return "no setting was evaluated: every training failed"

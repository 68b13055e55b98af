"""The verb ``language sweep``: train and evaluate a grid of settings, and recommend one."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

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
from advreg.language.sweep.run import FILE, OnProgress, SweepEvaluation, SweepProgress, sweep


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
    with _progress_bar(quiet=as_json) as watch:
        record = sweep(config, grid, data, evaluation, out=out, command=command, on_progress=watch)
    if as_json:
        typer.echo(json.dumps(record))
        return
    tables.show(settings_table(record))
    typer.echo(f"{conclusion(record)}\nwritten: {out / FILE}; for a page with charts: advreg language report {out}")


_COLUMNS = {
    "attack success above benign": ("attack_effect", "at_least_one"),
    "attack success": ("attack_success", "at_least_one"),
    "injection, static": ("injection", "static"),
    "injection, adaptive": ("injection", "adaptive"),
    "over-refusal": ("over_refusal",),
    "instructions": ("instructions", "strict"),
    "soft prompt": ("attack_success", "soft_prompt"),
}


def settings_table(record: Mapping[str, Any]) -> Table:
    """Return the table of the base model and every setting, with marks for the frontier and the recommendation.

    Args:
        record: the content of sweep.json.
    """
    results = [record["base"], *(row["results"] for row in record["settings"] if row["results"])]
    columns = {title: path for title, path in _COLUMNS.items() if any(_metric(each, path) for each in results)}
    lines = [("base", "-", "-", *(_cell(_metric(record["base"], path)) for path in columns.values()), "")]
    for k, row in enumerate(record["settings"]):
        marks = " ".join(["frontier"] * (k in record["frontier"]) + ["recommended"] * _is_choice(record, k))
        name = f"{row['mix']:.0%}, lr {row['lr']:g}"
        cells = [_cell(_metric(row["results"], path)) if row["results"] else "-" for path in columns.values()]
        lines.append((name, str(row["seed"]), f"{row['scale']:g}", *cells, "failed" if row.get("failed") else marks))
    return tables.table("", ("share, rate", "seed", "scale", *columns, ""), lines)


def _is_choice(record: Mapping[str, Any], index: int) -> bool:
    return record["recommended"] is not None and record["recommended"]["index"] == index


def _metric(results: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any] | None:
    """Return a metric of an evaluation; None where it was not measured."""
    found: Any = results["axes"]
    for name in path:
        found = (found or {}).get(name)
    return found if found and found["n"] else None


def _cell(share: Mapping[str, Any] | None) -> str:
    if share is None:
        return "-"
    low, high = share["interval"]
    return f"{share.get('raw', share['value']):.0%} [{low:.0%}, {high:.0%}]"


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


@contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[OnProgress]:
    """Yield a callback that shows the progress of a sweep on standard error: a bar and a line for each setting."""
    console = Console(file=sys.stderr, quiet=quiet)
    with progress.bars(console) as bar:
        task = bar.add_task("sweep", total=None)
        seen: set[str] = set()

        def watch(at: SweepProgress) -> None:
            bar.update(task, description=f"{at.name}: {at.part}", completed=at.done, total=at.total)
            if at.name not in seen:
                seen.add(at.name)
                console.print(f"{at.place}/{at.places}  {at.name}", soft_wrap=True, highlight=False)

        yield watch

"""The verb ``language sweep``: train and evaluate a grid of settings, and recommend one."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from advreg.cli import progress, tables
from advreg.cli.language_inputs import DataFiles, EvaluationOptions, parse_attacks, read_rows
from advreg.errors import ConfigError
from advreg.language.config import LanguageConfig
from advreg.language.datasets import read_refusal_examples
from advreg.language.sweep.plan import SweepData, SweepGrid, split_data
from advreg.language.sweep.run import FILE, OnProgress, SweepEvaluation, SweepProgress, sweep


@dataclass(frozen=True)
class SweepOptions:
    """Model, files and grid of a sweep, as the command line gives them.

    Attributes:
        model: name of the base model.
        files: the data files.
        adversarial: file of requests to train on; a part of the harmful requests if empty.
        changes: ``key=value`` of the training configuration.
        mixes: adversarial shares, separated by commas.
        rates: learning rates, separated by commas.
        seeds: seeds of training, separated by commas.
        scales: adapter scales, separated by commas.
        budget: largest acceptable over-refusal, as a share.
        n_validation: number of requests and of safe prompts that select the scale.
        scale_attacks: attacks that select the scale.
    """

    model: str
    files: DataFiles
    adversarial: str
    changes: Sequence[str]
    mixes: str
    rates: str
    seeds: str
    scales: str
    budget: float
    n_validation: int
    scale_attacks: Sequence[str]

    def grid(self) -> SweepGrid:
        """Parse the grid.

        Raises:
            ConfigError: a part is not a number.
        """
        return SweepGrid(
            mixes=tuple(parse_numbers("--mix", self.mixes, float)),
            rates=tuple(parse_numbers("--lr", self.rates, float)),
            seeds=tuple(parse_numbers("--seeds", self.seeds, int)),
            scales=tuple(parse_numbers("--scales", self.scales, float)),
            budget=self.budget,
        )

    def data(self, options: EvaluationOptions) -> SweepData:
        """Read the files and split the prompts.

        Args:
            options: largest number of test prompts, and the seed.
        """
        adversarial = read_rows(self.adversarial, read_refusal_examples)
        sizes = options.sizes()
        return split_data(self.files.read(), adversarial, n=sizes, n_validation=self.n_validation, seed=options.seed)


def parse_numbers(option: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    """Parse numbers separated by commas.

    Args:
        option: the option, for the error message.
        text: such as ``0,0.15,0.3``.
        kind: int or float.

    Returns:
        The numbers, in order.

    Raises:
        ConfigError: a part is not a number of this kind.

    Example:
        >>> parse_numbers("--mix", "0, 0.15,0.3", float)
        [0.0, 0.15, 0.3]
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as cause:
        raise ConfigError(f"{option} is {text!r}; give {kind.__name__} numbers separated by commas") from cause


def run_sweep(settings: SweepOptions, options: EvaluationOptions, *, out: Path, as_json: bool) -> None:
    """Run a sweep and print every setting and the recommendation.

    Args:
        settings: model, files and grid.
        options: how to evaluate each setting.
        out: folder of the sweep; the same folder resumes.
        as_json: print one JSON object instead of text.
    """
    grid = settings.grid()
    changes = [f"model.name={settings.model}", f"train.device={options.device}", *settings.changes]
    config = LanguageConfig().replace_with(changes)
    evaluation = _sweep_evaluation(settings, options)
    data = settings.data(options)
    command = shlex.join(["advreg", *sys.argv[1:]])
    with _progress_bar(quiet=as_json) as watch:
        record = sweep(config, grid, data, evaluation, out=out, command=command, on_progress=watch)
    if as_json:
        typer.echo(json.dumps(record))
        return
    tables.show(settings_table(record))
    typer.echo(f"{conclusion(record)}\nwritten: {out / FILE}; for a page with charts: advreg language report {out}")


def _sweep_evaluation(settings: SweepOptions, options: EvaluationOptions) -> SweepEvaluation:
    harm, rater = options.rater.judges()
    return SweepEvaluation(
        attacks=options.attack_functions(),
        scale_attacks=parse_attacks(settings.scale_attacks),
        judge=settings.files.judge(options.tokens),
        harm=harm,
        rater=rater,
        max_new_tokens=options.tokens,
        task_tokens=options.task_tokens,
        dtype=options.dtype,
        seed=options.seed,
    )


_COLUMNS = {
    "attack success above benign": ("attack_effect", "at_least_one"),
    "attack success": ("attack_success", "at_least_one"),
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

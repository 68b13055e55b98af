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
from advreg.cli.language_evaluate import DataFiles, EvaluationOptions, named_attacks, rows
from advreg.errors import ConfigError
from advreg.language.config import LanguageConfig
from advreg.language.datasets import read_refusal_examples
from advreg.language.sweep.plan import SweepGrid, parts
from advreg.language.sweep.run import FILE, At, Measuring, sweep


@dataclass(frozen=True)
class SweepSizes:
    """The grid of a sweep, as the command line gives it.

    Attributes:
        mixes, rates, seeds, scales: numbers separated by commas.
        budget: largest acceptable over-refusal, as a share.
        n_validation: requests and safe prompts that choose the scale.
        dial: attacks that choose the scale.
    """

    mixes: str
    rates: str
    seeds: str
    scales: str
    budget: float
    n_validation: int
    dial: Sequence[str]

    def plan(self) -> SweepGrid:
        """Parse the grid.

        Raises:
            ConfigError: a part is not a number.
        """
        return SweepGrid(
            mixes=tuple(numbers("--mix", self.mixes, float)),
            rates=tuple(numbers("--lr", self.rates, float)),
            seeds=tuple(numbers("--seeds", self.seeds, int)),
            scales=tuple(numbers("--scales", self.scales, float)),
            budget=self.budget,
        )


def numbers(option: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    """Parse numbers separated by commas.

    Args:
        option: the option, for the error message.
        text: such as ``0,0.15,0.3``.
        kind: int or float.

    Raises:
        ConfigError: a part is not a number of this kind.

    Example:
        >>> numbers("--mix", "0, 0.15,0.3", float)
        [0.0, 0.15, 0.3]
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as cause:
        raise ConfigError(f"{option} is {text!r}; give {kind.__name__} numbers separated by commas") from cause


def run_sweep(
    model: str,
    files: DataFiles,
    options: EvaluationOptions,
    grid: SweepSizes,
    *,
    adversarial: str,
    changes: Sequence[str],
    out: Path,
    as_json: bool,
) -> None:
    """Run a sweep and print every setting and the recommendation.

    Args:
        model: name of the base model.
        files: the user's files.
        options: how to evaluate each setting.
        grid: the settings.
        adversarial: file of requests to train on; a part of the harmful requests if empty.
        changes: ``key=value`` of the training configuration.
        out: folder of the sweep; the same folder resumes.
        as_json: print one JSON object instead of text.
    """
    plan = grid.plan()
    config = LanguageConfig().replace_with([f"model.name={model}", f"train.device={options.device}", *changes])
    measuring = Measuring(
        options.attack_functions(),
        named_attacks(grid.dial),
        files.judge(options.tokens),
        options.remote(),
        options.tokens,
        options.task_tokens,
        options.dtype,
        options.seed,
    )
    lessons = rows(adversarial, read_refusal_examples)
    data = parts(files.read(), lessons, n=options.sizes(), n_validation=grid.n_validation, seed=options.seed)
    command = shlex.join(["advreg", *sys.argv[1:]])
    with _watching(quiet=as_json) as watch:
        found = sweep(config, plan, data, measuring, out=out, command=command, on_progress=watch)
    if as_json:
        typer.echo(json.dumps(found))
        return
    tables.show(settings_table(found))
    typer.echo(f"{conclusion(found)}\nwritten: {out / FILE}; to draw it: advreg language report {out}")


def settings_table(found: Mapping[str, Any]) -> Table:
    """Return the table of the base model and every setting; settings on the Pareto frontier are marked."""
    lines = [("base", "-", "-", *_figures(found["base"]), "")]
    for k, row in enumerate(found["settings"]):
        marks = " ".join(["frontier"] * (k in found["frontier"]) + ["recommended"] * _is(found["recommended"], k))
        name = f"{row['mix']:.0%}, lr {row['lr']:g}"
        figures = _figures(row["results"]) if row["results"] else ("-", "-", "-", "-")
        lines.append((name, str(row["seed"]), f"{row['scale']:g}", *figures, "failed" if row.get("failed") else marks))
    columns = ("share, rate", "seed", "scale", "attack success", "over-refusal", "instructions", "soft prompt", "")
    return tables.table("", columns, lines)


def _is(choice: Mapping[str, Any] | None, index: int) -> bool:
    return choice is not None and choice["index"] == index


def _figures(results: Mapping[str, Any]) -> tuple[str, str, str, str]:
    axes = results["axes"]
    success = axes["attack_success"]
    metrics = (
        success["at_least_one"],
        axes["over_refusal"],
        axes["instructions"]["strict"],
        success.get("soft_prompt"),
    )
    one, two, three, four = (
        f"{f['value']:.0%} [{f['interval'][0]:.0%}, {f['interval'][1]:.0%}]" if f else "-" for f in metrics
    )
    return one, two, three, four


def conclusion(found: Mapping[str, Any]) -> str:
    """Return the recommendation in one sentence, or the reason that there is none."""
    for name, label in (("recommended", "recommended"), ("nearest", "no setting qualifies; the nearest is")):
        if found[name]:
            row = found["settings"][found[name]["index"]]
            return f"{label}: {row['run']} at scale {row['scale']:g} ({found[name]['why']})"
    return "no setting was measured: every training failed"


@contextmanager
def _watching(*, quiet: bool) -> Iterator[Callable[[At], None]]:
    """Yield a callback that shows the progress of a sweep on standard error: a bar and a line for each setting."""
    console = Console(file=sys.stderr, quiet=quiet)
    with progress.bars(console) as bar:
        task = bar.add_task("sweep", total=None)
        seen: set[str] = set()

        def watch(at: At) -> None:
            bar.update(task, description=f"{at.name}: {at.part}", completed=at.done, total=at.total)
            if at.name not in seen:
                seen.add(at.name)
                console.print(f"{at.place}/{at.places}  {at.name}", soft_wrap=True, highlight=False)

        yield watch

"""The verb ``language sweep``: a grid, the user's files, and what to take."""

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
from advreg.cli.language_evaluate import Files, How, named_attacks, rows
from advreg.errors import ConfigError
from advreg.language.config import LanguageConfig
from advreg.language.datasets import read_lessons
from advreg.language.sweep.plan import SweepGrid, parts
from advreg.language.sweep.run import FILE, At, Measuring, sweep


@dataclass(frozen=True)
class SweepSizes:
    """What to sweep, as the command line says it."""

    mixes: str
    rates: str
    seeds: str
    scales: str
    budget: float
    n_validation: int
    dial: Sequence[str]

    def plan(self) -> SweepGrid:
        """Return it as numbers.

        Raises:
            ConfigError: something that is no number.
        """
        return SweepGrid(
            mixes=tuple(numbers("--mix", self.mixes, float)),
            rates=tuple(numbers("--lr", self.rates, float)),
            seeds=tuple(numbers("--seeds", self.seeds, int)),
            scales=tuple(numbers("--scales", self.scales, float)),
            budget=self.budget,
        )


def numbers(option: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    """Return the numbers of a list with commas.

    Example:
        >>> numbers("--mix", "0, 0.15,0.3", float)
        [0.0, 0.15, 0.3]
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as cause:
        raise ConfigError(f"{option} is {text!r}; give {kind.__name__} numbers with commas between") from cause


def run_sweep(
    model: str,
    files: Files,
    adversarial: str,
    how: How,
    grid: SweepSizes,
    changes: Sequence[str],
    *,
    out: Path,
    as_json: bool,
) -> None:
    """Sweep, and show what was found."""
    plan = grid.plan()
    config = LanguageConfig().replace_with([f"model.name={model}", f"train.device={how.device}", *changes])
    measuring = Measuring(
        how.chosen(),
        named_attacks(grid.dial),
        files.judge(how.tokens),
        how.remote(),
        how.tokens,
        how.task_tokens,
        how.dtype,
        how.seed,
    )
    lessons = rows(adversarial, read_lessons)
    dealt = parts(files.read(), lessons, n=how.sizes(), n_validation=grid.n_validation, seed=how.seed)
    command = shlex.join(["advreg", *sys.argv[1:]])
    with _watching(quiet=as_json) as watch:
        found = sweep(config, plan, dealt, measuring, out=out, command=command, on_progress=watch)
    if as_json:
        typer.echo(json.dumps(found))
        return
    tables.show(settings_table(found))
    typer.echo(f"{conclusion(found)}\nwritten: {out / FILE}; draw it with: advreg language report {out}")


def settings_table(found: Mapping[str, Any]) -> Table:
    """Return the base model and every setting, with what is on the frontier marked."""
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
    wanted = (success["at_least_one"], axes["over_refusal"], axes["instructions"]["strict"], success.get("soft_prompt"))
    one, two, three, four = (
        f"{f['value']:.0%} [{f['interval'][0]:.0%}, {f['interval'][1]:.0%}]" if f else "-" for f in wanted
    )
    return one, two, three, four


def conclusion(found: Mapping[str, Any]) -> str:
    """Return in a sentence what to take, or why nothing can be recommended."""
    for name, said in (("recommended", "recommended"), ("nearest", "nothing qualifies; the nearest is")):
        if found[name]:
            row = found["settings"][found[name]["index"]]
            return f"{said}: {row['run']} at scale {row['scale']:g} ({found[name]['why']})"
    return "nothing was measured: every training failed"


@contextmanager
def _watching(*, quiet: bool) -> Iterator[Callable[[At], None]]:
    """Yield a callback that shows where a sweep is on standard error: a bar, or a line for each setting."""
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

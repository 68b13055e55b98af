"""The verb ``sweep``: train every setting of some keys, compare on held-out training images, recommend one."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.table import Table

from advreg.cli import progress, tables
from advreg.cli.resolution import load_config
from advreg.cli.training_verbs import SweepCommand
from advreg.errors import ConfigError
from advreg.hardening.secrets_in_urls import read_url, require_no_password
from advreg.report.sweep_page import recommendation, setting_cells, write_sweep
from advreg.sweep import Sweep, SweepPlan, parse_keys, run_sweep
from advreg.sweep.run import OnProgress, TrialProgress
from advreg.threat import ThreatModel
from advreg.trainer.events import Guarded, Step


def _plan(command: SweepCommand) -> SweepPlan:
    """Return the options of the library; seeds that are no integers, or a password, raise."""
    require_no_password([f"--storage={command.storage}"])
    try:
        seeds = tuple(int(seed) for seed in command.seeds.split(","))
    except ValueError as cause:
        raise ConfigError(f"--seeds is {command.seeds!r}; give integers separated by commas, such as 0,1,2") from cause
    return SweepPlan(
        threat=None if command.threat is None else ThreatModel.parse(command.threat),
        protocol=command.protocol,
        n=command.n,
        budget=command.clean_budget,
        seeds=seeds,
        trials=command.trials,
        storage=read_url(command.storage, "--storage"),
        study=command.study,
        plain=command.plain,
        early_stop=command.early_stop,
        finetune=command.finetune,
    )


def run(command: SweepCommand) -> None:
    """Run a sweep; print the table and the recommendation, and write the page and the CSV.

    Args:
        command: options of ``advreg sweep``.
    """
    config, space = load_config(command.config).replace_with(command.changes or []), parse_keys(command.keys)
    line = shlex.join(["advreg", *sys.argv[1:]])
    with _progress_lines(quiet=command.as_json) as watch:
        sweep = run_sweep(config, space, _plan(command), out=command.out, command=line, on_progress=watch)
    sweep.to_csv(command.out / "sweep.csv")
    page = write_sweep(command.out)
    if command.as_json:
        typer.echo(json.dumps(sweep.record))
        return
    tables.show(settings_table(sweep))
    typer.echo(f"{recommendation(sweep.record)}\nwritten: {page}, sweep.csv and sweep.json beside it")


def settings_table(sweep: Sweep) -> Table:
    """Return the table of the settings, with marks for the frontier and the recommendation.

    Args:
        sweep: the sweep.
    """
    rows = [setting_cells(sweep.record, k) for k in range(len(sweep.settings))]
    columns = ("setting", "clean", "robust", "seeds", "forwards", "backwards", "processor seconds", "")
    return tables.table("", columns, [(row["name"], *row["cells"], " ".join(row["marks"])) for row in rows])


@contextmanager
def _progress_lines(*, quiet: bool) -> Iterator[OnProgress]:
    """Yield a callback that shows the progress of a sweep on standard error: a bar, and lines for each training."""
    console = Console(file=sys.stderr, quiet=quiet)
    with progress.bars(console) as bar:
        task = bar.add_task("sweep", total=None)

        def watch(at: TrialProgress) -> None:
            if isinstance(at.event, Step):
                done = (at.event.epoch - 1) * at.event.steps + at.event.step
                bar.update(task, description=at.name, completed=done, total=None)
            elif isinstance(at.event, Guarded):
                console.print(f"  {at.event.trouble}: {at.event.message}", soft_wrap=True, highlight=False)
            elif at.row is not None:
                console.print(f"  {_outcome(at.row)}", soft_wrap=True, highlight=False)
            elif at.event is None:
                console.print(f"{at.place}  {at.name}", soft_wrap=True, highlight=False)

        yield watch


def _outcome(row: dict[str, object]) -> str:
    if row["clean_accuracy"] is None:
        return f"{row['state']}: {row['why']}"
    return f"clean {row['clean_accuracy']:.2%}  robust {row['robust_accuracy']:.2%}"

"""The verb ``sweep``: train every setting of some keys, compare on held-out training images, recommend one."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from advreg.cli import progress, tables
from advreg.cli.resolution import load_config
from advreg.errors import ConfigError
from advreg.hardening.secrets_in_urls import read_url, require_no_password
from advreg.report.sweep_page import recommendation, setting_cells, write_sweep
from advreg.sweep import Sweep, SweepPlan, parse_keys, run_sweep
from advreg.sweep.run import OnProgress, TrialProgress
from advreg.threat import ThreatModel
from advreg.trainer.events import Guarded, Step


@dataclass(frozen=True)
class SweepCommand:
    """Options of ``advreg sweep``.

    Attributes:
        config: a configuration file.
        keys: ``section.key=value,value`` each.
        out: folder of the sweep.
        changes: ``section.key=value`` for all settings.
        threat: threat model of the comparison; that of the configuration if None.
        protocol: protocol of the comparison.
        n: held-out images of the comparison.
        clean_budget: largest acceptable loss of clean accuracy.
        seeds: seeds, separated by commas.
        trials: trials of a search; None for the grid.
        storage: database that several machines share, ``env:NAME`` or ``file:PATH`` where it has a password.
        study: name of the study in it.
        finetune: where every training starts.
        plain: whether a plain network is trained too.
        early_stop: whether hopeless trials are stopped.
        as_json: print one JSON object instead of text.
    """

    config: Path
    keys: list[str]
    out: Path
    changes: list[str] = field(default_factory=list)
    threat: str | None = None
    protocol: str = "quick"
    n: int | None = None
    clean_budget: float = 0.01
    seeds: str = "0"
    trials: int | None = None
    storage: str = ""
    study: str = "advreg"
    finetune: str = ""
    plain: bool = True
    early_stop: bool = True
    as_json: bool = False

    def options(self) -> SweepPlan:
        """Return the options of the library.

        Raises:
            ConfigError: seeds that are no integers, or a password on the command line.
        """
        require_no_password([f"--storage={self.storage}"])
        try:
            seeds = tuple(int(seed) for seed in self.seeds.split(","))
        except ValueError as cause:
            raise ConfigError(f"--seeds is {self.seeds!r}; give integers separated by commas, such as 0,1,2") from cause
        return SweepPlan(
            threat=None if self.threat is None else ThreatModel.parse(self.threat),
            protocol=self.protocol,
            n=self.n,
            budget=self.clean_budget,
            seeds=seeds,
            trials=self.trials,
            storage=read_url(self.storage, "--storage"),
            study=self.study,
            plain=self.plain,
            early_stop=self.early_stop,
            finetune=self.finetune,
        )


def run(command: SweepCommand) -> None:
    """Run a sweep; print the table and the recommendation, and write the page and the CSV.

    Args:
        command: options of ``advreg sweep``.
    """
    config, space = load_config(command.config).replace_with(command.changes), parse_keys(command.keys)
    line = shlex.join(["advreg", *sys.argv[1:]])
    with _progress_lines(quiet=command.as_json) as watch:
        sweep = run_sweep(config, space, command.options(), out=command.out, command=line, on_progress=watch)
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

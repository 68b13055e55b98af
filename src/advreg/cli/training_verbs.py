"""The verbs that train: declarations of their options, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from advreg.cli import completion
from advreg.cli.option_groups import with_groups
from advreg.cli.options import Json, Set, TrustCode

app = typer.Typer()


@dataclass(frozen=True)
class TrainOptions:
    """Options of ``advreg train``."""

    config: Annotated[Path, typer.Argument(help="A run.toml; with --resume, a run folder.")]
    out: Annotated[Path | None, typer.Option(help="Run folder to create; train.out of run.toml by default.")] = None
    changes: Set = None
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False
    finetune: Annotated[
        str | None, typer.Option(metavar="RUN", help="Start from a run folder, a weights file or a pretrained network.")
    ] = None
    ratio: Annotated[float | None, typer.Option(help="With --finetune: the share of each batch that is attacked.")] = (
        None
    )
    logs: Annotated[list[str] | None, typer.Option("--log", help="Also log to tensorboard, mlflow or wandb.")] = None
    as_json: Json = False


@dataclass(frozen=True)
class SweepCommand:
    """Options of ``advreg sweep``."""

    config: Annotated[Path, typer.Argument(help="A run.toml.")]
    keys: Annotated[
        list[str],
        typer.Option("--key", metavar="KEY=V,V", help="Key and values, or low..high for a search; may be repeated."),
    ]
    out: Annotated[Path, typer.Option(help="Folder of the sweep; the same folder resumes.")] = Path("runs/sweep")
    changes: Set = None
    threat: Annotated[str | None, typer.Option(help="norm:eps of the comparison; that of run.toml by default.")] = None
    protocol: Annotated[str, typer.Option(help="Protocol of the comparison.", autocompletion=completion.protocols)] = (
        "quick"
    )
    n: Annotated[int | None, typer.Option("--n", "-n", help="Held-out images of the comparison; all by default.")] = (
        None
    )
    clean_budget: Annotated[
        float, typer.Option(metavar="SHARE", help="Clean accuracy that the recommendation may cost, against the best.")
    ] = 0.01
    seeds: Annotated[str, typer.Option(help="Seeds of every setting, separated by commas.")] = "0"
    trials: Annotated[
        int | None, typer.Option(help="Search with this many trials instead of the whole grid (extra sweep).")
    ] = None
    storage: Annotated[
        str, typer.Option(help="Database that several machines share: postgresql://..., env:NAME or file:PATH.")
    ] = ""
    study: Annotated[str, typer.Option(help="Name of the sweep in the database.")] = "advreg"
    finetune: Annotated[
        str,
        typer.Option(metavar="RUN", help="Start every training from a run folder, weights or a pretrained network."),
    ] = ""
    plain: Annotated[bool, typer.Option(help="Also train a plain network, the reference of clean accuracy.")] = True
    early_stop: Annotated[bool, typer.Option(help="Stop hopeless trainings.")] = True
    as_json: Json = False


@app.command(epilog="Example: advreg train run.toml --set train.epochs=20 --out runs/net")
@with_groups()
def train(options: TrainOptions, trust_code: TrustCode = False) -> None:
    """Train a network from a configuration into a run folder; exit status 1 if it learned nothing.

    Several processes share the work under torchrun.
    """
    from advreg.cli.train import run_train

    run_train(options)


@app.command(epilog="Example: advreg plan run.toml --price 2.5")
def plan(
    run: Annotated[Path, typer.Argument(help="A run.toml or a run folder.")],
    protocol: Annotated[str, typer.Option(help="Protocol of the evaluation.")] = "quick",
    n: Annotated[int, typer.Option("--n", "-n", help="Test examples of the evaluation.")] = 1000,
    trials: Annotated[int, typer.Option(help="Trainings of a sweep.")] = 1,
    price: Annotated[float | None, typer.Option(help="Price of an hour on the machine, in any currency.")] = None,
    calibrate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the speed of this machine, for a plan elsewhere.")
    ] = None,
    machine: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plan for the machine that wrote this file with --calibrate.")
    ] = None,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Say what a training, a sweep and an evaluation will cost: passes, time, memory and money."""
    from advreg.cli.plan import PlanOptions, run_plan

    run_plan(PlanOptions(run, protocol, n, trials, price, calibrate, machine, as_json))


@app.command(epilog="Example: advreg sweep run.toml --key threat.eps=2/255,4/255 --seeds 0,1")
@with_groups()
def sweep(command: SweepCommand, trust_code: TrustCode = False) -> None:
    """Train every setting of some keys, compare on held-out training images, and recommend one."""
    from advreg.cli.sweep import run

    run(command)

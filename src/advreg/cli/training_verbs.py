"""The verbs that train: declarations of their options, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advreg.cli.options import Json, Set, TrustCode

app = typer.Typer()


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A run.toml; with --resume, a run folder.")],
    out: Annotated[Path | None, typer.Option(help="Run folder to create; train.out of run.toml by default.")] = None,
    changes: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    finetune: Annotated[
        str | None, typer.Option(metavar="RUN", help="Start from a run folder, a weights file or a pretrained network.")
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="With --finetune: the share of each batch that is attacked.")
    ] = None,
    log: Annotated[list[str] | None, typer.Option(help="Also log to tensorboard, mlflow or wandb.")] = None,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Train a network from a configuration into a run folder; exit status 1 if it learned nothing.

    Several processes share the work under torchrun.
    """
    from advreg.cli.train import TrainOptions, run_train

    run_train(
        TrainOptions(
            config=config,
            out=out,
            changes=changes or [],
            resume=resume,
            finetune=finetune,
            ratio=ratio,
            logs=log or [],
            as_json=as_json,
        )
    )

"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advreg.cli import completion
from advreg.plugins import trusting


def _trust(context: typer.Context, allowed: bool) -> bool:
    """Let the verb import code that files name, until it ends."""
    context.with_resource(trusting(allowed))
    return allowed


Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as train.epochs=3; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Seed = Annotated[int, typer.Option(help="Seed of all random draws.")]
Threat = Annotated[
    str | None,
    typer.Option(
        help="norm:eps, norm:eps@low,high for another box than [0, 1], or snr:20 in dB; the run's own by default."
    ),
]
Box = Annotated[
    str,
    typer.Option(metavar="LOW,HIGH", help="Lowest and highest valid value of an input; that of the data by default."),
]
Features = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="features.toml of a table: types, limits, units and rules; eps counts in units."),
]
Data = Annotated[
    str | None, typer.Option(help="Data set; the run's own by default.", autocompletion=completion.data_sets)
]
Weights = Annotated[Path | None, typer.Option(help="Weights to load: safetensors or a state dict.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...", autocompletion=completion.devices)]
ResultFolder = Annotated[Path | None, typer.Option(help="Folder to write into; the run folder by default.")]
DiagnosedModel = Annotated[
    str,
    typer.Argument(
        help="A run folder, or a name: zoo:NAME, timm:NAME, torchvision:NAME, pkg.module:factory.",
        autocompletion=completion.models,
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="K/N", help="Do only this part of the work, numbered from 0; advreg merge joins them."
    ),
]
EngineOption = Annotated[
    str | None, typer.Option("--engine", help="Share the work among worker processes (local) or a Ray cluster (ray).")
]
Workers = Annotated[int | None, typer.Option(help="Number of workers of the engine; 2 by default.")]
Runs = Annotated[list[Path], typer.Argument(help="Run folders.", autocompletion=completion.run_folders)]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        envvar="ADVREG_TRUST_CODE",
        callback=_trust,
        help="Import and call the code (pkg.module:factory) that files of a run name; only for runs of your own.",
    ),
]

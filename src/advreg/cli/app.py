"""The verbs. Each reads its options, calls one function of the library, and shows what came back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="advreg",
    help="Train networks to withstand adversarial inputs, and measure honestly how robust they are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as train.epochs=3.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Seed = Annotated[int, typer.Option(help="Seed of all random draws.")]
Runs = Annotated[list[Path], typer.Argument(help="Run folders.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the report.")] = Path("runs/demo"),
) -> None:
    """Break a network, make one robust, and show both: the whole tool on MNIST in a few minutes."""
    from advreg.cli.demo import run_demo

    run_demo(out)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="run.toml; to resume, the run folder will do.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; the configuration's train.out by default.")] = None,
    changes: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    as_json: Json = False,
) -> None:
    """Train a network as a configuration says, into a run folder."""
    from advreg.cli import progress
    from advreg.config import Config
    from advreg.training import fit

    is_run = config.is_dir()
    chosen = Config.load(config / "run.toml" if is_run else config).replace_with(changes or [])
    folder = out or (config if is_run else None)
    if folder is not None:
        chosen = chosen.replace_with([f"train.out={folder}"])
    with progress.training(quiet=as_json) as watch:
        run = fit(chosen, resume=resume, on_event=watch)
    if as_json:
        typer.echo(json.dumps({"run": str(run.path), "last": run.read_log("metrics.jsonl")[-1]}))
    else:
        typer.echo(f"run folder: {run.path}\nnext: advreg evaluate {run.path}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A run folder, or zoo: timm: torchvision: pkg.module:factory.")],
    data: Annotated[str | None, typer.Option(help="Data set; the run's own by default.")] = None,
    threat: Annotated[str | None, typer.Option(help="norm:eps, such as linf:8/255; the run's own by default.")] = None,
    protocol: Annotated[str, typer.Option(help="fgsm, quick, basic, strong, standard, plus or rand.")] = "basic",
    weights: Annotated[Path | None, typer.Option(help="safetensors or state dict.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Test examples, from the first.")] = 1000,
    curve: Annotated[str, typer.Option(metavar="EPS,EPS,...", help="Also measure a robustness curve.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder to write into; the run folder by default.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure clean and robust accuracy, with exact intervals; resumes what was interrupted."""
    from advreg.cli.evaluate import run_evaluate

    run_evaluate(model, data, threat, protocol, weights, n, curve, out, seed, as_json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; report.html in the run folder by default.")] = None,
) -> None:
    """Write one self-contained HTML page about a run."""
    from advreg.report import write

    typer.echo(write(run, out))


@app.command()
def compare(
    runs: Runs,
    html: Annotated[Path | None, typer.Option(help="Also write this HTML page.")] = None,
    as_json: Json = False,
) -> None:
    """Lay several runs side by side."""
    from dataclasses import asdict

    from advreg.cli import tables
    from advreg.report import comparison, write_comparison

    rows = comparison(runs)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
    else:
        tables.show(tables.comparison(rows))
    if html is not None:
        typer.echo(write_comparison(runs, html), err=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine has: versions, devices, and how fast an attack runs here."""
    from advreg.cli.doctor import examination

    found = examination()
    typer.echo(json.dumps(found) if as_json else "\n".join(f"{name:>24}  {value}" for name, value in found.items()))


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from advreg.version import __version__

        typer.echo(__version__)
        raise typer.Exit

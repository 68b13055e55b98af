"""The verbs of ``advreg text``: train, attack, evaluate and report on text classifiers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Train text classifiers that withstand changed words, attack them, and measure how robust they are.",
    no_args_is_help=True,
)

Model = Annotated[str, typer.Argument(help="A run folder, the folder of a model, hf:ORG/NAME, or minilm.")]
Data = Annotated[
    str,
    typer.Option(metavar="FILE[?COLUMN=NAME&...]", help="Labelled texts, .csv, .json or .jsonl: columns text, label."),
]
Attacks = Annotated[
    list[str] | None,
    typer.Option(
        "--attack", metavar="NAME[:KEY=VALUE,...]", help="words:words=4 or embedding:eps=0.1; may be repeated."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Number = Annotated[int, typer.Option("--n", "-n", min=1, help="Number of texts, from the first.")]


@app.command()
def train(
    config: Annotated[
        Path | None, typer.Argument(help="A text.toml; with --resume, a run folder. Defaults if absent.")
    ] = None,
    *,
    model: Annotated[
        str | None, typer.Option(help="Classifier or encoder to start from: a folder, hf:ORG/NAME or minilm.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="FILE", help="Labelled texts: columns text, label.")] = None,
    method: Annotated[str | None, typer.Option(help="plain, freelb, smart or alum.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to create.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as train.eps=0.5; may be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    as_json: Json = False,
) -> None:
    """Train a text classifier into a run folder, plainly or against perturbations of its embeddings."""
    from advreg.cli import progress
    from advreg.cli.config_run import config_with_options, print_run
    from advreg.language.classifiers.config import TextConfig
    from advreg.language.classifiers.fit import CONFIG, fit_text

    options = {
        "model.name": model,
        "data.train": data,
        "train.method": method,
        "train.epochs": epochs,
        "train.out": out,
    }
    chosen = config_with_options(TextConfig(), config, CONFIG, options, changes or [])
    with progress.training(quiet=as_json) as watch:
        run = fit_text(chosen, resume=resume, on_event=watch)
    print_run(run, f"advreg text evaluate {run.path} --data FILE", as_json=as_json)


@app.command()
def attack(
    model: Model,
    *,
    data: Data,
    attacks: Attacks = None,
    n: Number = 8,
    out: Annotated[Path | None, typer.Option(help="JSON-lines file for the attacked texts.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Change the words of texts until the classifier is wrong, and print them before and after."""
    from advreg.cli.text_verbs import run_attack

    run_attack(model, data, attacks or ["words"], n=n, out=out, device=device, as_json=as_json)


@app.command()
def evaluate(
    model: Model,
    *,
    data: Data,
    attacks: Attacks = None,
    n: Number = 1000,
    out: Annotated[Path | None, typer.Option(help="Folder to write into; the run folder by default.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure clean accuracy and accuracy under each attack with exact intervals; an interrupted evaluation resumes."""
    from advreg.cli.text_verbs import run_evaluate

    run_evaluate(model, data, attacks or ["words", "embedding"], n=n, out=out, device=device, as_json=as_json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of an evaluated run.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; report.html in the folder by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about an evaluated text classifier."""
    from advreg.report import text

    path = text.write(run, out)
    typer.echo(json.dumps({"files": {"html": str(path)}}) if as_json else path)

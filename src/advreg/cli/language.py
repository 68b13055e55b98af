"""The verbs of ``advreg language``: attack, train, evaluate, sweep and report on language models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advreg.cli import language_options as shared
from advreg.cli.option_groups import with_groups
from advreg.cli.options import TrustCode

app = typer.Typer(
    help="Attack, train and evaluate language models, sweep the trade-off between safety and use, and report it.",
    no_args_is_help=True,
)


@app.command()
@with_groups(omit=("safe", "questions", "tasks", "task_tokens"), required=("harmful",), n="32")
def attack(
    model: shared.Model,
    *,
    files: shared.DataFiles,
    options: shared.EvaluationOptions,
    out: Annotated[Path | None, typer.Option(help="Folder to write into; the same folder resumes.")] = None,
    as_json: shared.Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Run jailbreak attacks and report the attack success rate."""
    from advreg.cli.language_evaluate import run_evaluate

    run_evaluate(model, files, options, out=out, base=None, as_json=as_json)


@app.command()
def train(
    config: Annotated[
        Path | None, typer.Argument(help="A language.toml; with --resume, a run folder. Defaults if absent.")
    ] = None,
    *,
    model: Annotated[str | None, typer.Option(help="Model to start from; the configuration's by default.")] = None,
    adversarial: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Harmful requests with compliant openings and refusals: columns prompt, targets, safe; or AdvBench.",
        ),
    ] = None,
    benign: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Instructions with responses: columns instruction, input, output; or messages."
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt; the configuration's by default.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to create; train.out of the configuration by default.")
    ] = None,
    changes: shared.Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    as_json: shared.Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Train a model to refuse harmful requests under attack and to stay useful."""
    from advreg.cli import progress
    from advreg.cli.config_run import config_with_options, print_run
    from advreg.language.config import LanguageConfig
    from advreg.language.training.fit import fit_language
    from advreg.language.training.folder import CONFIG

    options = {
        "model.name": model,
        "model.system": system,
        "data.adversarial": adversarial,
        "data.benign": benign,
        "train.out": out,
    }
    chosen = config_with_options(LanguageConfig(), config, CONFIG, options, changes or [])
    with progress.training(quiet=as_json) as watch:
        run = fit_language(chosen, resume=resume, on_event=watch)
    print_run(run, f"advreg language evaluate {run.path} --harmful FILE --safe FILE", as_json=as_json)


@app.command()
@with_groups(task_tokens=256)
def evaluate(
    model: shared.Model,
    *,
    files: shared.DataFiles,
    options: shared.EvaluationOptions,
    base: shared.Base = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write into; the run folder by default.")] = None,
    as_json: shared.Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Measure attack success, over-refusal, truthfulness, instruction following and helpfulness, with 95% intervals.

    An interrupted evaluation resumes.
    """
    from advreg.cli.language_evaluate import run_evaluate

    run_evaluate(model, files, options, out=out, base=base, as_json=as_json)


@app.command()
@with_groups(omit=("scale", "system"), required=("harmful", "safe", "benign"))
def sweep(
    *,
    files: shared.DataFiles,
    grid: shared.SweepOptions,
    options: shared.EvaluationOptions,
    out: Annotated[Path, typer.Option(help="Folder of the sweep; the same folder resumes.")] = Path("runs/sweep"),
    as_json: shared.Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Train with several adversarial shares and learning rates, evaluate each, and recommend one within the limit."""
    from advreg.cli.language_sweep import run_sweep

    run_sweep(files, grid, options, out=out, as_json=as_json)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder of a trained model.")],
    out: Annotated[Path, typer.Argument(help="Folder to create.")],
    *,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the whole model, with the adapter in its weights.")
    ] = False,
    scale: shared.Scale = 1.0,
    dtype: shared.Dtype = "float32",
    as_json: shared.Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Write a trained model for peft, transformers or vLLM: an adapter folder, or with --merge a plain model folder."""
    import json

    from advreg.language.training.export import export_trained

    folder = export_trained(run, out, merge=merge, scale=scale, dtype=dtype, trust_code=trust_code)
    typer.echo(json.dumps({"folder": str(folder)}) if as_json else f"written: {folder}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a sweep.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; report.html in the folder by default.")] = None,
    as_json: shared.Json = False,
) -> None:
    """Write one self-contained HTML page about a sweep."""
    import json

    from advreg.report import language

    path = language.write(run, out)
    typer.echo(json.dumps({"files": {"html": str(path)}}) if as_json else path)

"""The verbs of ``advreg language``: attack, train, evaluate, sweep and report on language models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advreg.cli import language_options as shared
from advreg.cli.options import TrustCode

app = typer.Typer(
    help="Attack, train and evaluate language models, sweep the trade-off between safety and use, and report it.",
    no_args_is_help=True,
)


@app.command()
def attack(
    model: shared.Model,
    *,
    harmful: shared.Harmful,
    attacks: shared.Attacks = None,
    benign: shared.Benign = "",
    labels: shared.Labels = "",
    scale: shared.Scale = 1.0,
    system: shared.System = "",
    n: shared.Number = "32",
    tokens: shared.Tokens = 48,
    judge_url: shared.JudgeUrl = "",
    judge_model: shared.JudgeModel = "",
    judge_key: shared.JudgeKey = "",
    judge_rubric: shared.JudgeRubric = "strongreject",
    out: Annotated[Path | None, typer.Option(help="Folder to write into; the same folder resumes.")] = None,
    dtype: shared.Dtype = "float32",
    device: shared.Device = "cpu",
    seed: shared.Seed = 0,
    as_json: shared.Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Run jailbreak attacks and report the attack success rate."""
    from advreg.cli.language_evaluate import run_evaluate
    from advreg.cli.language_inputs import DataFiles, EvaluationOptions, Rater

    files = DataFiles(harmful=harmful, benign=benign, labels=labels)
    options = EvaluationOptions(
        attacks=attacks,
        n=n,
        tokens=tokens,
        dtype=dtype,
        device=device,
        seed=seed,
        scale=scale,
        system=system,
        rater=Rater(judge_url, judge_model, judge_key, judge_rubric),
    )
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
    from advreg.cli.language_train import run_train

    options = {
        "model.name": model,
        "model.system": system,
        "data.adversarial": adversarial,
        "data.benign": benign,
        "train.out": out,
    }
    run_train(config, options, changes or [], resume=resume, as_json=as_json)


@app.command()
def evaluate(
    model: shared.Model,
    *,
    harmful: shared.Harmful = "",
    safe: shared.Safe = "",
    questions: shared.Questions = "",
    tasks: shared.Tasks = "",
    benign: shared.Benign = "",
    labels: shared.Labels = "",
    attacks: shared.Attacks = None,
    base: shared.Base = None,
    scale: shared.Scale = 1.0,
    system: shared.System = "",
    n: shared.Number = "100",
    tokens: shared.Tokens = 48,
    task_tokens: shared.TaskTokens = 256,
    judge_url: shared.JudgeUrl = "",
    judge_model: shared.JudgeModel = "",
    judge_key: shared.JudgeKey = "",
    judge_rubric: shared.JudgeRubric = "strongreject",
    out: Annotated[Path | None, typer.Option(help="Folder to write into; the run folder by default.")] = None,
    dtype: shared.Dtype = "float32",
    device: shared.Device = "cpu",
    seed: shared.Seed = 0,
    as_json: shared.Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Measure attack success, over-refusal, truthfulness, instruction following and helpfulness, with 95% intervals.

    An interrupted evaluation resumes.
    """
    from advreg.cli.language_evaluate import run_evaluate
    from advreg.cli.language_inputs import DataFiles, EvaluationOptions, Rater

    files = DataFiles(harmful, safe, questions, tasks, benign, labels)
    options = EvaluationOptions(
        attacks=attacks,
        n=n,
        tokens=tokens,
        task_tokens=task_tokens,
        dtype=dtype,
        device=device,
        seed=seed,
        scale=scale,
        system=system,
        rater=Rater(judge_url, judge_model, judge_key, judge_rubric),
    )
    run_evaluate(model, files, options, out=out, base=base, as_json=as_json)


@app.command()
def sweep(
    *,
    harmful: shared.Harmful,
    safe: shared.Safe,
    benign: shared.Benign,
    out: Annotated[Path, typer.Option(help="Folder of the sweep; the same folder resumes.")] = Path("runs/sweep"),
    model: Annotated[str, typer.Option(help="Model to start from.")] = "hf-gguf:smollm2",
    adversarial: Annotated[
        str, typer.Option(metavar="FILE", help="Requests to train on; a part of --harmful by default.")
    ] = "",
    questions: shared.Questions = "",
    tasks: shared.Tasks = "",
    labels: shared.Labels = "",
    mixes: Annotated[
        str, typer.Option("--mix", metavar="SHARE,...", help="Shares of adversarial examples in training.")
    ] = "0,0.05,0.15,0.3,0.5",
    rates: Annotated[str, typer.Option("--lr", metavar="RATE,...", help="Learning rates.")] = "5e-4,1e-3",
    seeds: Annotated[
        str, typer.Option(metavar="SEED,...", help="Seeds of training; several show the variance between trainings.")
    ] = "0",
    scales: Annotated[
        str, typer.Option(metavar="SCALE,...", help="Adapter scales to choose from.")
    ] = "0.25,0.5,0.75,1",
    budget: Annotated[float, typer.Option(help="Largest over-refusal that is acceptable, as a share.")] = 0.05,
    attacks: shared.Attacks = None,
    scale_attacks: shared.ScaleAttacks = None,
    n: shared.Number = "100",
    n_validation: Annotated[
        int, typer.Option(min=1, help="Number of requests and of safe prompts used to choose the scale.")
    ] = 40,
    tokens: shared.Tokens = 48,
    task_tokens: shared.TaskTokens = 128,
    judge_url: shared.JudgeUrl = "",
    judge_model: shared.JudgeModel = "",
    judge_key: shared.JudgeKey = "",
    judge_rubric: shared.JudgeRubric = "strongreject",
    changes: shared.Set = None,
    dtype: shared.Dtype = "float32",
    device: shared.Device = "cpu",
    seed: shared.Seed = 0,
    as_json: shared.Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Train with several adversarial shares and learning rates, evaluate each, and recommend one within the limit."""
    from advreg.cli.language_inputs import DataFiles, EvaluationOptions, Rater
    from advreg.cli.language_sweep import SweepOptions, run_sweep

    options = EvaluationOptions(
        attacks=attacks,
        n=n,
        tokens=tokens,
        task_tokens=task_tokens,
        dtype=dtype,
        device=device,
        seed=seed,
        rater=Rater(judge_url, judge_model, judge_key, judge_rubric),
    )
    grid = SweepOptions(
        model=model,
        files=DataFiles(harmful, safe, questions, tasks, benign, labels),
        adversarial=adversarial,
        changes=changes or [],
        mixes=mixes,
        rates=rates,
        seeds=seeds,
        scales=scales,
        budget=budget,
        n_validation=n_validation,
        scale_attacks=scale_attacks or ["direct", "roleplay"],
    )
    run_sweep(grid, options, out=out, as_json=as_json)


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

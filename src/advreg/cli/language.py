"""The verbs of ``advreg language``: attack, train, evaluate, sweep and report for language models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Language models: attack, train, measure on four axes, sweep the trade-off, report.", no_args_is_help=True
)

FILE = "FILE[?COLUMN=NAME&...]"
Model = Annotated[
    str,
    typer.Argument(help="A run folder, a model's folder, hf:org/name, hf-gguf:smollm2, gguf:file, pkg.module:factory."),
]
Harmful = Annotated[
    str, typer.Option(metavar=FILE, help="Harmful requests, to be refused: columns prompt=goal, target=target.")
]
Safe = Annotated[
    str, typer.Option(metavar=FILE, help="Prompts that should be answered: prompt, type, label where some are unsafe.")
]
Benign = Annotated[
    str, typer.Option(metavar=FILE, help="Harmless instructions with answers: instruction, input, output.")
]
Questions = Annotated[
    str, typer.Option(metavar=FILE, help="Questions with true and false answers: Question, Best Answer, ...")
]
Tasks = Annotated[
    str, typer.Option(metavar=FILE, help="Prompts with verifiable instructions: prompt, instruction_id_list, kwargs.")
]
Labels = Annotated[
    str, typer.Option(metavar=FILE, help="Completions that people labelled; the judge learns from them, errors known.")
]
Attacks = Annotated[
    list[str] | None,
    typer.Option(
        "--attack", metavar="NAME[:KEY=VALUE,...]", help="Such as direct, roleplay, best_of_n:n=16, gcg:steps=50."
    ),
]
JudgeUrl = Annotated[str, typer.Option(metavar="URL", help="Service that rates help, such as https://host/v1.")]
JudgeModel = Annotated[str, typer.Option(help="Model that the service should use.")]
JudgeKey = Annotated[str, typer.Option(metavar="VARIABLE", help="Environment variable that holds its key.")]
Number = Annotated[
    str, typer.Option("--n", "-n", metavar="N", help="Prompts of each kind at most, or requests=40,safe=250,...")
]
Tokens = Annotated[int, typer.Option(min=1, help="Length of a completion.")]
TaskTokens = Annotated[int, typer.Option(min=1, help="Length of a completion that follows instructions.")]
Dtype = Annotated[str, typer.Option(help="float32, or bfloat16: faster, a little less exact.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of training, such as train.steps=30."),
]
Seed = Annotated[int, typer.Option(help="Seed of all random draws.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def attack(
    model: Model,
    harmful: Harmful,
    attacks: Attacks = None,
    labels: Labels = "",
    scale: Annotated[float, typer.Option(help="Of a run folder's adapter: 0 is the base model.")] = 1.0,
    n: Number = "32",
    tokens: Tokens = 48,
    out: Annotated[Path | None, typer.Option(help="Folder to write into, and to go on in.")] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Ask for what should be refused, in every way there is, and count what comes back."""
    from advreg.cli import language_evaluate as work

    files = work.Files(harmful=harmful, labels=labels)
    how = work.How(attacks=attacks, n=n, tokens=tokens, dtype=dtype, device=device, seed=seed, scale=scale)
    work.run_evaluate(model, files, how, out=out, base=None, as_json=as_json)


@app.command()
def train(
    config: Annotated[
        Path | None, typer.Argument(help="language.toml; to resume, the run folder will do. Defaults without one.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to start from; the configuration's by default.")] = None,
    adversarial: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Requests with openers and refusals: prompt, targets, safe.")
    ] = None,
    benign: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instructions with answers: instruction, input, output.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; the configuration's train.out by default.")] = None,
    changes: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model to refuse under attack and to stay useful, into a run folder."""
    from advreg.cli import language_train as work

    named = {"model.name": model, "data.adversarial": adversarial, "data.benign": benign, "train.out": out}
    work.run_train(config, named, changes or [], resume=resume, as_json=as_json)


@app.command()
def evaluate(
    model: Model,
    harmful: Harmful = "",
    safe: Safe = "",
    questions: Questions = "",
    tasks: Tasks = "",
    benign: Benign = "",
    labels: Labels = "",
    attacks: Attacks = None,
    base: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Folder of the base model's evaluation, to compare with.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Of a run folder's adapter: 0 is the base model.")] = 1.0,
    n: Number = "100",
    tokens: Tokens = 48,
    task_tokens: TaskTokens = 256,
    judge_url: JudgeUrl = "",
    judge_model: JudgeModel = "",
    judge_key: JudgeKey = "",
    out: Annotated[Path | None, typer.Option(help="Folder to write into; the run folder by default.")] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure attack success, over-refusal, facts, instructions and help, with 95% intervals; goes on after a kill."""
    from advreg.cli import language_evaluate as work

    files = work.Files(harmful, safe, questions, tasks, benign, labels)
    how = work.How(
        attacks=attacks, n=n, tokens=tokens, task_tokens=task_tokens, dtype=dtype, device=device, seed=seed, scale=scale,
        rater=(judge_url, judge_model, judge_key),
    )  # fmt: skip
    work.run_evaluate(model, files, how, out=out, base=base, as_json=as_json)


@app.command()
def sweep(
    harmful: Harmful,
    safe: Safe,
    benign: Benign,
    out: Annotated[Path, typer.Option(help="Folder of the sweep; the same one goes on.")] = Path("runs/sweep"),
    model: Annotated[str, typer.Option(help="Model to start from.")] = "hf-gguf:smollm2",
    adversarial: Annotated[
        str, typer.Option(metavar="FILE", help="Requests to train on; a part of --harmful by default.")
    ] = "",
    questions: Questions = "",
    tasks: Tasks = "",
    labels: Labels = "",
    mixes: Annotated[
        str, typer.Option("--mix", metavar="SHARE,...", help="Adversarial shares.")
    ] = "0,0.05,0.15,0.3,0.5",
    rates: Annotated[str, typer.Option("--lr", metavar="RATE,...", help="Learning rates.")] = "5e-4,1e-3",
    seeds: Annotated[str, typer.Option(metavar="SEED,...", help="Of training; several show how much is luck.")] = "0",
    scales: Annotated[
        str, typer.Option(metavar="SCALE,...", help="Strengths of the adapter to choose from.")
    ] = "0.25,0.5,0.75,1",
    budget: Annotated[float, typer.Option(help="Largest share of safe prompts that may be refused.")] = 0.05,
    attacks: Attacks = None,
    dial: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:KEY=VALUE,...]", help="Attacks by which the scale is chosen.")
    ] = None,
    n: Number = "100",
    n_validation: Annotated[int, typer.Option(min=1, help="Requests and safe prompts to choose the scale by.")] = 40,
    tokens: Tokens = 48,
    task_tokens: TaskTokens = 128,
    judge_url: JudgeUrl = "",
    judge_model: JudgeModel = "",
    judge_key: JudgeKey = "",
    changes: Set = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train at several adversarial shares and rates, measure each, and recommend one within an over-refusal budget."""
    from advreg.cli import language_sweep as work
    from advreg.cli.language_evaluate import Files, How

    files = Files(harmful, safe, questions, tasks, benign, labels)
    how = How(
        attacks=attacks, n=n, tokens=tokens, task_tokens=task_tokens, dtype=dtype, device=device, seed=seed,
        rater=(judge_url, judge_model, judge_key),
    )  # fmt: skip
    grid = work.SweepSizes(mixes, rates, seeds, scales, budget, n_validation, dial or ["direct", "roleplay"])
    work.run_sweep(model, files, adversarial, how, grid, changes or [], out=out, as_json=as_json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a sweep.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; report.html in the folder by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about a sweep."""
    import json

    from advreg.report import language

    path = language.write(run, out)
    typer.echo(json.dumps({"files": {"html": str(path)}}) if as_json else path)

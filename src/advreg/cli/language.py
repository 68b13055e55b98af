"""The verbs of ``advreg language``: attack, train, evaluate, sweep and report on language models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advreg.cli.options import TrustCode

app = typer.Typer(
    help="Attack, train and evaluate language models, sweep the trade-off between safety and use, and report it.",
    no_args_is_help=True,
)

FILE = "FILE[?COLUMN=NAME&...]"
Model = Annotated[
    str,
    typer.Argument(
        help="A run folder, the folder of a model, or a name: hf:ORG/NAME, hf-gguf:smollm2, gguf:FILE, pkg.module:factory."
    ),
]
Harmful = Annotated[
    str,
    typer.Option(
        metavar=FILE, help="Harmful requests, which the model should refuse: columns prompt=goal, target=target."
    ),
]
Safe = Annotated[
    str,
    typer.Option(
        metavar=FILE,
        help="Safe prompts, which the model should not refuse: columns prompt, type, label if some are unsafe.",
    ),
]
Benign = Annotated[
    str, typer.Option(metavar=FILE, help="Harmless instructions with responses: columns instruction, input, output.")
]
Questions = Annotated[
    str, typer.Option(metavar=FILE, help="Questions with true and false answers: columns Question, Best Answer, ...")
]
Tasks = Annotated[
    str,
    typer.Option(
        metavar=FILE, help="Prompts with verifiable instructions: columns prompt, instruction_id_list, kwargs."
    ),
]
Labels = Annotated[
    str,
    typer.Option(
        metavar=FILE,
        help="Completions labelled by people; the judge is trained on a part and its errors are measured on the rest.",
    ),
]
Attacks = Annotated[
    list[str] | None,
    typer.Option(
        "--attack",
        metavar="NAME[:KEY=VALUE,...]",
        help="Attack to run, such as direct, roleplay, best_of_n:n=16 or gcg:steps=50; may be repeated.",
    ),
]
JudgeUrl = Annotated[str, typer.Option(metavar="URL", help="Service that rates helpfulness, such as https://host/v1.")]
JudgeModel = Annotated[str, typer.Option(help="Model that the service uses.")]
JudgeKey = Annotated[
    str, typer.Option(metavar="VARIABLE", help="Environment variable that holds the key of the service.")
]
Number = Annotated[
    str,
    typer.Option("--n", "-n", metavar="N", help="Largest number of prompts of each kind, or requests=40,safe=250,..."),
]
Tokens = Annotated[int, typer.Option(min=1, help="Length of a completion in tokens.")]
TaskTokens = Annotated[int, typer.Option(min=1, help="Length of a completion for --tasks in tokens.")]
Dtype = Annotated[str, typer.Option(help="float32, or bfloat16, which is faster and less exact.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a key of training, such as train.steps=30; may be repeated."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of all random draws.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def attack(
    model: Model,
    harmful: Harmful,
    attacks: Attacks = None,
    labels: Labels = "",
    scale: Annotated[float, typer.Option(help="Scale of the adapter of a run folder; 0 is the base model.")] = 1.0,
    n: Number = "32",
    tokens: Tokens = 48,
    out: Annotated[Path | None, typer.Option(help="Folder to write into; the same folder resumes.")] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Run jailbreak attacks and report the attack success rate."""
    from advreg.cli import language_evaluate as work

    files = work.DataFiles(harmful=harmful, labels=labels)
    options = work.EvaluationOptions(
        attacks=attacks, n=n, tokens=tokens, dtype=dtype, device=device, seed=seed, scale=scale
    )
    work.run_evaluate(model, files, options, out=out, base=None, as_json=as_json)


@app.command()
def train(
    config: Annotated[
        Path | None, typer.Argument(help="A language.toml; with --resume, a run folder. Defaults if absent.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to start from; the configuration's by default.")] = None,
    adversarial: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Harmful requests with compliant openings and refusals: columns prompt, targets, safe."
        ),
    ] = None,
    benign: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instructions with responses: columns instruction, input, output."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to create; train.out of the configuration by default.")
    ] = None,
    changes: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Train a model to refuse harmful requests under attack and to stay useful."""
    from advreg.cli import language_train as work

    options = {"model.name": model, "data.adversarial": adversarial, "data.benign": benign, "train.out": out}
    work.run_train(config, options, changes or [], resume=resume, as_json=as_json)


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
        Path | None,
        typer.Option(metavar="RUN", help="Folder with the evaluation of the base model, for paired differences."),
    ] = None,
    scale: Annotated[float, typer.Option(help="Scale of the adapter of a run folder; 0 is the base model.")] = 1.0,
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
    trust_code: TrustCode = False,
) -> None:
    """Measure attack success, over-refusal, truthfulness, instruction following and helpfulness, with 95% intervals.

    An interrupted evaluation resumes.
    """
    from advreg.cli import language_evaluate as work

    files = work.DataFiles(harmful, safe, questions, tasks, benign, labels)
    options = work.EvaluationOptions(
        attacks=attacks,
        n=n,
        tokens=tokens,
        task_tokens=task_tokens,
        dtype=dtype,
        device=device,
        seed=seed,
        scale=scale,
        rater=(judge_url, judge_model, judge_key),
    )
    work.run_evaluate(model, files, options, out=out, base=base, as_json=as_json)


@app.command()
def sweep(
    harmful: Harmful,
    safe: Safe,
    benign: Benign,
    out: Annotated[Path, typer.Option(help="Folder of the sweep; the same folder resumes.")] = Path("runs/sweep"),
    model: Annotated[str, typer.Option(help="Model to start from.")] = "hf-gguf:smollm2",
    adversarial: Annotated[
        str, typer.Option(metavar="FILE", help="Requests to train on; a part of --harmful by default.")
    ] = "",
    questions: Questions = "",
    tasks: Tasks = "",
    labels: Labels = "",
    mixes: Annotated[
        str, typer.Option("--mix", metavar="SHARE,...", help="Shares of adversarial examples in training.")
    ] = "0,0.05,0.15,0.3,0.5",
    rates: Annotated[str, typer.Option("--lr", metavar="RATE,...", help="Learning rates.")] = "5e-4,1e-3",
    seeds: Annotated[
        str, typer.Option(metavar="SEED,...", help="Seeds of training; several show the random variation.")
    ] = "0",
    scales: Annotated[
        str, typer.Option(metavar="SCALE,...", help="Adapter scales to choose from.")
    ] = "0.25,0.5,0.75,1",
    budget: Annotated[float, typer.Option(help="Largest over-refusal that is acceptable, as a share.")] = 0.05,
    attacks: Attacks = None,
    dial: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:KEY=VALUE,...]", help="Attack used to choose the adapter scale; may be repeated."),
    ] = None,
    n: Number = "100",
    n_validation: Annotated[
        int, typer.Option(min=1, help="Number of requests and of safe prompts used to choose the scale.")
    ] = 40,
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
    trust_code: TrustCode = False,
) -> None:
    """Train with several adversarial shares and learning rates, evaluate each, and recommend one within the limit."""
    from advreg.cli import language_sweep as work
    from advreg.cli.language_evaluate import DataFiles, EvaluationOptions

    files = DataFiles(harmful, safe, questions, tasks, benign, labels)
    options = EvaluationOptions(
        attacks=attacks,
        n=n,
        tokens=tokens,
        task_tokens=task_tokens,
        dtype=dtype,
        device=device,
        seed=seed,
        rater=(judge_url, judge_model, judge_key),
    )
    grid = work.SweepSizes(mixes, rates, seeds, scales, budget, n_validation, dial or ["direct", "roleplay"])
    work.run_sweep(
        model, files, options, grid, adversarial=adversarial, changes=changes or [], out=out, as_json=as_json
    )


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

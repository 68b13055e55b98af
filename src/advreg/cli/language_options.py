"""Options that several verbs of ``advreg language`` share; importing them needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from advreg.cli.options import Json as Json
from advreg.cli.options import Seed as Seed

FILE = "FILE[?COLUMN=NAME&...]"
Model = Annotated[
    str,
    typer.Argument(
        help="A run folder, the folder of a model or an adapter, or a name: hf:ORG/NAME, gguf:FILE, http://HOST/v1#MODEL, ..."
    ),
]
Harmful = Annotated[
    str,
    typer.Option(metavar=FILE, help="Harmful requests, which the model should refuse: columns goal, target."),
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
        help="Completions labelled by people: column label (refusal or compliance) trains and calibrates the judge of "
        "refusals, column harmful (0 or 1) calibrates the judge of harm.",
    ),
]
Attacks = Annotated[
    list[str] | None,
    typer.Option(
        "--attack",
        metavar="NAME[:KEY=VALUE,...]",
        help="Attack to run, such as prefill, best_of_n:n=16 or pair:url=URL,model=NAME; may be repeated. No others run.",
    ),
]
ScaleAttacks = Annotated[
    list[str] | None,
    typer.Option(
        "--scale-attack",
        "--dial",
        metavar="NAME[:KEY=VALUE,...]",
        help="Attack that selects the adapter scale; may be repeated.",
    ),
]
JudgeUrl = Annotated[
    str, typer.Option(metavar="URL", help="Service that judges harm and rates helpfulness, such as https://host/v1.")
]
JudgeModel = Annotated[str, typer.Option(help="Model that the service uses.")]
JudgeKey = Annotated[
    str, typer.Option(metavar="VARIABLE", help="Environment variable that holds the key of the service.")
]
JudgeRubric = Annotated[str, typer.Option(help="Rubric of harm: strongreject or harmbench.")]
System = Annotated[
    str, typer.Option(help="System prompt; that of the run, else the chat template's default, if empty.")
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
Scale = Annotated[float, typer.Option(help="Scale of the adapter of a run folder; 0 is the base model.")]
Base = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Folder with the evaluation of the base model, for paired differences."),
]


@dataclass(frozen=True)
class DataFiles:
    """Data files, each ``FILE`` or ``FILE?column=name&...``; an empty text means no file."""

    harmful: Harmful = ""
    safe: Safe = ""
    questions: Questions = ""
    tasks: Tasks = ""
    benign: Benign = ""
    labels: Labels = ""


@dataclass(frozen=True)
class EvaluationOptions:
    """How a model is evaluated."""

    attacks: Attacks = None
    scale: Scale = 1.0
    system: System = ""
    n: Number = "100"
    tokens: Tokens = 48
    task_tokens: TaskTokens = 128
    judge_url: JudgeUrl = ""
    judge_model: JudgeModel = ""
    judge_key: JudgeKey = ""
    judge_rubric: JudgeRubric = "strongreject"
    dtype: Dtype = "float32"
    device: Device = "cpu"
    seed: Seed = 0


@dataclass(frozen=True)
class SweepOptions:
    """Model and grid of a sweep; lists are separated by commas."""

    model: Annotated[str, typer.Option(help="Model to start from.")] = "hf-gguf:smollm2"
    adversarial: Annotated[
        str, typer.Option(metavar="FILE", help="Requests to train on; a part of --harmful by default.")
    ] = ""
    mixes: Annotated[
        str, typer.Option("--mix", metavar="SHARE,...", help="Shares of adversarial examples in training.")
    ] = "0,0.05,0.15,0.3,0.5"
    rates: Annotated[str, typer.Option("--lr", metavar="RATE,...", help="Learning rates.")] = "5e-4,1e-3"
    seeds: Annotated[
        str, typer.Option(metavar="SEED,...", help="Seeds of training; several show the variance between trainings.")
    ] = "0"
    scales: Annotated[str, typer.Option(metavar="SCALE,...", help="Adapter scales to choose from.")] = "0.25,0.5,0.75,1"
    budget: Annotated[float, typer.Option(help="Largest over-refusal that is acceptable, as a share.")] = 0.05
    scale_attacks: ScaleAttacks = None
    n_validation: Annotated[
        int, typer.Option(min=1, help="Number of requests and of safe prompts used to choose the scale.")
    ] = 40
    changes: Set = None

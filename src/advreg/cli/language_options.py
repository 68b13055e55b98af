"""Options that several verbs of ``advreg language`` share; importing them needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
        help="Completions labelled as refusal or compliance; the judge is trained on one part and calibrated on the rest.",
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
Seed = Annotated[int, typer.Option(help="Seed of all random draws.")]
Scale = Annotated[float, typer.Option(help="Scale of the adapter of a run folder; 0 is the base model.")]
Base = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Folder with the evaluation of the base model, for paired differences."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

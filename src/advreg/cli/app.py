"""The verbs. Each reads its options, calls one function of the library, and shows what came back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from advreg.cli import harden, language

app = typer.Typer(
    name="advreg",
    help="Train networks to withstand adversarial inputs, and measure honestly how robust they are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.add_typer(harden.app, name="harden")
app.add_typer(language.app, name="language")

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as train.epochs=3.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Seed = Annotated[int, typer.Option(help="Seed of all random draws.")]
Threat = Annotated[
    str | None,
    typer.Option(help="norm:eps, or norm:eps@low,high for another box than [0, 1]; the run's own by default."),
]
Runs = Annotated[list[Path], typer.Argument(help="Run folders.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the report.")] = Path("runs/demo"),
    finetune: Annotated[
        bool, typer.Option("--finetune", help="Make the plain network robust by fine-tuning, and show what that costs.")
    ] = False,
) -> None:
    """Break a network, make one robust, and show both: the whole tool on MNIST in a few minutes."""
    from advreg.cli.demo import run_demo, run_finetune

    (run_finetune if finetune else run_demo)(out)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="run.toml; to resume, the run folder will do.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; the configuration's train.out by default.")] = None,
    changes: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    finetune: Annotated[
        str | None, typer.Option(metavar="RUN", help="Start from a run folder, a weights file or a pretrained network.")
    ] = None,
    ratio: Annotated[float, typer.Option(help="With --finetune: the share of each batch that is attacked.")] = 1.0,
    log: Annotated[list[str] | None, typer.Option(help="Also log to tensorboard, mlflow or wandb.")] = None,
    as_json: Json = False,
) -> None:
    """Train a network as a configuration says, into a run folder; shares the work under torchrun."""
    from advreg.cli.train import TrainOptions, run_train

    run_train(TrainOptions(config, out, changes or [], resume, finetune, ratio, log or [], as_json))


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A run folder, or zoo: timm: torchvision: onnx: http: pkg.module:factory.")
    ],
    data: Annotated[str | None, typer.Option(help="Data set; the run's own by default.")] = None,
    threat: Threat = None,
    protocol: Annotated[
        str, typer.Option(help="fgsm, quick, basic, strong, standard, plus, rand, blackbox or labels.")
    ] = "quick",
    attack: Annotated[
        list[str] | None, typer.Option(metavar="PKG.MODULE:FUNCTION", help="Your own attack, after the protocol's.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors or state dict.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Test examples, from the first.")] = 1000,
    curve: Annotated[str, typer.Option(metavar="EPS,EPS,...", help="Also measure a robustness curve.")] = "",
    distances: Annotated[bool, typer.Option(help="Also measure each example's distance to the boundary.")] = False,
    corruptions: Annotated[
        str, typer.Option(metavar="NAME,NAME,...", help="Also measure accuracy under these common corruptions, or all.")
    ] = "",
    severities: Annotated[str, typer.Option(metavar="1,2,...", help="Of the corruptions, from 1 to 5.")] = "1,2,3,4,5",
    out: Annotated[Path | None, typer.Option(help="Folder to write into; the run folder by default.")] = None,
    precision: Annotated[str, typer.Option(help="Of the proposals: float32, bfloat16 or auto.")] = "float32",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the copy that attacks work on.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure clean and robust accuracy, with exact intervals; resumes what was interrupted, shares under torchrun."""
    from advreg.cli.evaluate import EvaluateOptions, run_evaluate

    run_evaluate(
        EvaluateOptions(
            model=model,
            data=data,
            threat=threat,
            protocol=protocol,
            attacks=attack or [],
            weights=weights,
            n=n,
            curve=curve,
            distances=distances,
            corruptions=corruptions,
            severities=severities,
            out=out,
            seed=seed,
            precision=precision,
            compiled=compiled,
            device=device,
            as_json=as_json,
        )
    )


@app.command()
def diagnose(
    model: Annotated[str, typer.Argument(help="A run folder, or zoo: timm: torchvision: pkg.module:factory.")],
    data: Annotated[str | None, typer.Option(help="Data set; the run's own by default.")] = None,
    threat: Threat = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors or state dict.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Test examples, from the first.")] = 500,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer examples, queries and questions.")] = False,
    adapt: Annotated[bool, typer.Option("--adapt", help="Also attack as the findings suggest.")] = False,
    backward: Annotated[
        str | None, typer.Option(metavar="pkg.module:factory", help="Your own backward pass for --adapt.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write into; the run folder by default.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Say whether a robustness figure can be trusted, and why not; status 1 unless TRUSTED."""
    from advreg.cli.diagnose import run_diagnose

    run_diagnose(model, data, threat, weights, n, quick, adapt, backward, out, seed, as_json)


@app.command()
def epsilon(
    model: Annotated[str, typer.Argument(help="A run folder, or zoo: timm: torchvision: pkg.module:factory.")],
    data: Annotated[str | None, typer.Option(help="Data set; the run's own by default.")] = None,
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.")] = "linf",
    eps: Annotated[str, typer.Option(metavar="EPS,EPS,...", help="Grid; one that suits images by default.")] = "",
    box: Annotated[str, typer.Option(metavar="LOW,HIGH", help="Lowest and highest valid value of an input.")] = "0,1",
    weights: Annotated[Path | None, typer.Option(help="safetensors or state dict.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Test examples, from the first.")] = 200,
    out: Annotated[Path | None, typer.Option(help="Folder to write into; the run folder by default.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Answer "which eps?": how visible attacks are, what falls, where labels change, where to start."""
    from advreg.cli.epsilon import run_epsilon

    run_epsilon(model, data, norm, eps, box, weights, n, out, seed, as_json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; report.html in the run folder by default.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML for continuous integration.")] = None,
    fail_under: Annotated[
        list[str] | None, typer.Option(metavar="FIGURE=SHARE", help="Status 1 below it: clean, robust or robust-low.")
    ] = None,
    model_card: Annotated[Path | None, typer.Option(help="Also write a Hugging Face model card.")] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about a run; status 1 where a figure is below its threshold."""
    from advreg.cli.report import ReportOptions, run_report

    if not run_report(ReportOptions(run, out, junit, tuple(fail_under or ()), model_card, as_json)):
        raise typer.Exit(1)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    onnx: Annotated[Path | None, typer.Option(help="ONNX file (needs the extra onnx).")] = None,
    torch: Annotated[Path | None, typer.Option(help="File of torch.export, such as model.pt2.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run's model for other programs, checked against the model itself."""
    from advreg.cli.export import run_export

    run_export(run, onnx, torch, as_json)


@app.command()
def init(
    out: Annotated[Path, typer.Option(help="File to write; it must not be there yet.")] = Path("run.toml"),
    data: Annotated[str, typer.Option(help="Data set, such as folder:photos?size=64.")] = "mnist",
    threat: Annotated[str | None, typer.Option(help="norm:eps[@low,high]; one that suits the data by default.")] = None,
    model: Annotated[str | None, typer.Option(help="Network; one that suits the data by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run.toml for your data, with a comment for every section; asks nothing, overwrites nothing."""
    from advreg.cli.init import run_init, shown

    path = run_init(out, data, threat, model)
    if as_json:
        from advreg.config import Config

        typer.echo(json.dumps({"file": str(path), **shown(Config.load(path))}))
    else:
        typer.echo(f"{path}\nnext: advreg train {path}")


@app.command()
def attack(
    images: Annotated[list[Path], typer.Argument(help="Photographs.")],
    model: Annotated[str, typer.Option(help="A run folder, or zoo: timm: torchvision: pkg.module:factory.")],
    weights: Annotated[Path | None, typer.Option(help="safetensors or state dict.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Class to become, by name or number; any other by default.")
    ] = None,
    threat: Annotated[str, typer.Option(help="norm:eps.")] = "linf:4/255",
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps.")] = 60,
    size: Annotated[int | None, typer.Option(min=1, help="Side in pixels; the model's own by default.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Names of the classes, one a line.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the page.")] = Path("attacked"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make adversarial images from photographs, and show before and after."""
    from advreg.cli.attack import AttackOptions, run_attack

    wish = AttackOptions(images, model, weights, target, threat, steps, size, classes, out, device, seed, as_json)
    run_attack(wish)


@app.command()
def compare(
    runs: Runs,
    html: Annotated[Path | None, typer.Option(help="Also write this HTML page.")] = None,
    as_json: Json = False,
) -> None:
    """Lay several runs side by side."""
    from dataclasses import asdict

    from advreg.cli import tables
    from advreg.report import comparison, trainings, write_comparison

    rows, trained = comparison(runs), trainings(runs)
    if as_json:
        cost = {(row.run, row.threat): asdict(row) for row in trained}
        typer.echo(json.dumps([{**asdict(row), "training": cost.get((row.run, row.threat))} for row in rows]))
    else:
        tables.show(tables.comparison(rows))
        if trained:
            tables.show(tables.trainings(trained))
    if html is not None:
        typer.echo(write_comparison(runs, html), err=as_json)


@app.command()
def doctor(
    run: Annotated[Path | None, typer.Option(help="run.toml whose training shall be estimated.")] = None,
    as_json: Json = False,
) -> None:
    """Say what this machine has: versions, devices, extras, how fast an attack runs here, how long a training would take."""
    from advreg.cli.doctor import examination, lines

    found = examination(run)
    typer.echo(json.dumps(found) if as_json else lines(found))


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from advreg.version import __version__

        typer.echo(__version__)
        raise typer.Exit

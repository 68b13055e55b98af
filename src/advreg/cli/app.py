"""The verbs of the command line; each passes its options to one function of `advreg.cli`, imported when the verb runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from advreg.cli import completion, harden, language, result_verbs, text, training_verbs
from advreg.cli.metavars import name_values
from advreg.cli.options import (
    Box,
    Data,
    Device,
    DiagnosedModel,
    EngineOption,
    Features,
    Json,
    ResultFolder,
    Seed,
    ShardOption,
    Threat,
    TrustCode,
    Weights,
    Workers,
)
from advreg.plugins import is_factory

app = typer.Typer(
    name="advreg",
    help="Train networks that withstand adversarial inputs, and measure how robust they are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.add_typer(harden.app, name="harden")
app.add_typer(language.app, name="language")
app.add_typer(text.app, name="text")


@app.command(epilog="Example: advreg demo --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the report.")] = Path("runs/demo"),
    finetune: Annotated[
        bool, typer.Option("--finetune", help="Make the plain network robust by fine-tuning, and show its cost.")
    ] = False,
) -> None:
    """Attack a plain network, train a robust one and compare both, on MNIST in a few minutes."""
    from advreg.cli.demo import run_demo, run_finetune

    (run_finetune if finetune else run_demo)(out)


app.registered_commands += training_verbs.app.registered_commands


@app.command(epilog="Example: advreg evaluate runs/net --protocol standard --n 1000 --curve 0,4/255,8/255")
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A run folder, or a name: zoo:NAME, timm:NAME, onnx:FILE, http://..., pkg.module:factory.",
            autocompletion=completion.models,
        ),
    ],
    data: Data = None,
    threat: Threat = None,
    box: Box = "",
    features: Features = None,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="fgsm, quick, basic, strong, standard (AutoAttack), plus, rand, blackbox or labels.",
            autocompletion=completion.protocols,
        ),
    ] = "quick",
    attack: Annotated[
        list[str] | None,
        typer.Option(metavar="PKG.MODULE:FUNCTION", help="Your own attack, run after the protocol; may be repeated."),
    ] = None,
    weights: Weights = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Number of test examples, from the first.")] = 1000,
    curve: Annotated[str, typer.Option(metavar="EPS,EPS,...", help="Also measure robust accuracy at these eps.")] = "",
    certify: Annotated[bool, typer.Option(help="Prove what bounds prove first, and attack only the rest.")] = False,
    distances: Annotated[
        bool, typer.Option(help="Also measure each example's distance to the decision boundary.")
    ] = False,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:OPTION=VALUE", help="labels, ordinal, number, pixels, boxes, pairs, or your factory."
        ),
    ] = None,
    corruptions: Annotated[
        str,
        typer.Option(metavar="NAME,NAME,...", help="Also measure accuracy under these common corruptions, or all."),
    ] = "",
    severities: Annotated[
        str, typer.Option(metavar="1,2,...", help="Severities of the corruptions, from 1 to 5.")
    ] = "1,2,3,4,5",
    out: ResultFolder = None,
    precision: Annotated[
        str,
        typer.Option(
            help="Precision of the copy that is attacked: float32, bfloat16 or auto.",
            autocompletion=completion.precisions,
        ),
    ] = "float32",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the copy that is attacked.")] = False,
    device: Device = "auto",
    shard: ShardOption = None,
    engine: EngineOption = None,
    workers: Workers = None,
    seed: Seed = 0,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Measure clean and robust accuracy with exact intervals; an interrupted evaluation resumes.

    Several processes share the work under torchrun or with --engine, several machines with --shard and advreg merge.
    """
    from advreg.cli.evaluate import EvaluateOptions, run_evaluate

    run_evaluate(
        EvaluateOptions(
            model=model,
            data=data,
            threat=threat,
            box=box,
            features=features,
            protocol=protocol,
            attacks=attack or [],
            weights=weights,
            n=n,
            curve=curve,
            certify=certify,
            distances=distances,
            task=task,
            corruptions=corruptions,
            severities=severities,
            out=out,
            seed=seed,
            precision=precision,
            compiled=compiled,
            device=device,
            as_json=as_json,
            shard=shard,
            engine=engine,
            workers=workers,
        )
    )


@app.command(epilog="Example: advreg diagnose runs/net --n 500 --adapt")
def diagnose(
    model: DiagnosedModel,
    data: Data = None,
    threat: Threat = None,
    box: Box = "",
    features: Features = None,
    weights: Weights = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Number of test examples, from the first.")] = 500,
    quick: Annotated[bool, typer.Option("--quick", help="Use fewer examples, queries and checks.")] = False,
    adapt: Annotated[bool, typer.Option("--adapt", help="Also run attacks adapted to the findings.")] = False,
    backward: Annotated[
        str | None, typer.Option(metavar="PKG.MODULE:FACTORY", help="Your own backward pass for --adapt.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:OPTION=VALUE", help="labels, ordinal, number, pixels, boxes, pairs, or your factory."
        ),
    ] = None,
    out: ResultFolder = None,
    seed: Seed = 0,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Check whether a robust accuracy can be trusted; exit status 1 unless the verdict is TRUSTED."""
    from advreg.cli.diagnose import DiagnoseOptions, run_diagnose

    trusted = run_diagnose(
        DiagnoseOptions(
            model=model,
            data=data,
            threat=threat,
            box=box,
            features=features,
            weights=weights,
            n=n,
            quick=quick,
            adapt=adapt,
            backward=backward,
            task=task,
            out=out,
            seed=seed,
            as_json=as_json,
        )
    )
    if not trusted:
        raise typer.Exit(1)


@app.command(epilog="Example: advreg certify runs/net --threat linf:2/255 --n 100")
def certify(
    model: DiagnosedModel,
    data: Data = None,
    threat: Threat = None,
    box: Box = "",
    method: Annotated[str, typer.Option(help="ibp, crown, alpha, complete or auto.")] = "auto",
    budget: Annotated[int, typer.Option(help="Domains of branch and bound for each margin.")] = 1000,
    sigma: Annotated[
        float | None, typer.Option(help="Certify the smoothed model under Gaussian noise of this deviation instead.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Noisy copies of each example, with --sigma.")] = 10_000,
    at_least: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Exit status 1 where less is proved, such as 0.93.")
    ] = None,
    eps: Annotated[str, typer.Option(metavar="EPS,EPS,...", help="Certify at each of these eps: a curve.")] = "",
    verdicts: Annotated[Path | None, typer.Option(metavar="FILE", help="Results of another verifier.")] = None,
    weights: Weights = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Number of test examples, from the first.")] = 1000,
    out: ResultFolder = None,
    seed: Seed = 0,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Prove robustness where possible, attack the rest: robust accuracy between a proved and an attacked figure."""
    from advreg.cli.certify import CertifyOptions, run_certify

    smoothing = None if sigma is None else (sigma, samples)
    options = CertifyOptions(
        model, data, threat, method, budget, at_least, weights, n, out, seed, as_json, box, smoothing, eps, verdicts
    )
    if not run_certify(options):
        raise typer.Exit(1)


@app.command(epilog="Example: advreg epsilon zoo:mnist-cnn --weights net.safetensors --data mnist")
def epsilon(
    model: DiagnosedModel,
    data: Data = None,
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.", autocompletion=completion.norms)] = "linf",
    eps: Annotated[
        str, typer.Option(metavar="EPS,EPS,...", help="Values of eps to measure; a grid for images by default.")
    ] = "",
    box: Box = "",
    weights: Weights = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Number of test examples, from the first.")] = 200,
    out: ResultFolder = None,
    seed: Seed = 0,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Help to choose eps: robust accuracy, visibility and ambiguous labels at each eps, and where to start."""
    from advreg.cli.epsilon import EpsilonOptions, run_epsilon

    run_epsilon(
        EpsilonOptions(
            model=model,
            data=data,
            norm=norm,
            eps=eps,
            box=box,
            weights=weights,
            n=n,
            out=out,
            seed=seed,
            as_json=as_json,
        )
    )


@app.command(epilog="Example: advreg export runs/net --onnx net.onnx")
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.", autocompletion=completion.run_folders)],
    onnx: Annotated[Path | None, typer.Option(help="ONNX file to write; needs the extra onnx.")] = None,
    torch: Annotated[Path | None, typer.Option(help="torch.export file to write, such as model.pt2.")] = None,
    vnnlib: Annotated[
        Path | None, typer.Option(help="Folder for an ONNX file and the VNN-LIB properties of test examples.")
    ] = None,
    threat: Threat = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Number of properties, from the first test example.")] = 10,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Write a run's model for other programs; each file is read back and compared with the model."""
    from advreg.cli.export import Properties, run_export

    run_export(run, onnx, torch, as_json, None if vnnlib is None else Properties(vnnlib, threat, n))


@app.command(epilog="Example: advreg init --data folder:photos?size=64 --out photos.toml")
def init(
    out: Annotated[Path, typer.Option(help="File to write; it must not exist.")] = Path("run.toml"),
    data: Annotated[str, typer.Option(help="Data set, such as folder:photos?size=64.")] = "mnist",
    threat: Annotated[
        str | None, typer.Option(help="norm:eps, or norm:eps@low,high; one that suits the data by default.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Network; one that suits the data by default.")] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Label of a table; also drafts features.toml, the limits of columns."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run.toml for your data with a comment above every section; existing files are never overwritten."""
    from advreg.cli.init import FEATURES_FILE, run_init, summary

    path = run_init(out, data, threat, model, target)
    if as_json:
        from advreg.config import Config

        typer.echo(json.dumps({"file": str(path), **summary(Config.load(path, trust_code=True))}))
    else:
        decide = f"decide what is mutable in {path.with_name(FEATURES_FILE)}, then " if target else ""
        typer.echo(f"{path}\nnext: {decide}advreg train {path}{' --trust-code' if model and is_factory(model) else ''}")


@app.command(epilog="Example: advreg attack photo.jpg --model timm:resnet50.a1_in1k --target goldfish")
def attack(
    images: Annotated[list[Path], typer.Argument(help="Photographs.")],
    model: Annotated[
        str, typer.Option(help="A run folder, or a name: zoo:NAME, timm:NAME, torchvision:NAME, pkg.module:factory.")
    ],
    weights: Weights = None,
    target: Annotated[
        str | None, typer.Option(help="Class to reach, by name or number; any other class by default.")
    ] = None,
    threat: Annotated[str, typer.Option(help="norm:eps; pixels are in [0, 1].")] = "linf:4/255",
    steps: Annotated[int, typer.Option(min=1, help="Number of gradient steps.")] = 60,
    size: Annotated[int | None, typer.Option(min=1, help="Side in pixels; the model's own by default.")] = None,
    classes: Annotated[Path | None, typer.Option(help="File with the names of the classes, one a line.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the page.")] = Path("attacked"),
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Make adversarial images from photographs, with a page that shows before and after."""
    from advreg.cli.attack import AttackOptions, run_attack

    run_attack(
        AttackOptions(
            images=images,
            model=model,
            weights=weights,
            target=target,
            threat=threat,
            steps=steps,
            size=size,
            classes=classes,
            out=out,
            device=device,
            seed=seed,
            as_json=as_json,
        )
    )


app.registered_commands += result_verbs.app.registered_commands


@app.command(epilog="Example: advreg doctor --run run.toml")
def doctor(
    run: Annotated[Path | None, typer.Option(help="A run.toml or run folder; also estimate its training time.")] = None,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Show versions, devices, extras and the speed of an attack on this machine."""
    from advreg.cli.doctor import examine, lines

    found = examine(run)
    typer.echo(json.dumps(found) if as_json else lines(found))


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from advreg.version import __version__

        typer.echo(__version__)
        raise typer.Exit


name_values(app)

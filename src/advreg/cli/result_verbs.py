"""The verbs that read results: declarations of their options, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advreg.cli.options import Data, Json, ResultFolder, Runs, Seed, Threat, TrustCode

app = typer.Typer()


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; report.html in the run folder by default.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML for continuous integration.")] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIGURE=SHARE", help="Exit status 1 below it: clean, robust or robust-low; may be repeated."
        ),
    ] = None,
    model_card: Annotated[Path | None, typer.Option(help="Also write a Hugging Face model card.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Also write each figure as PNG.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Also write each table as CSV.")] = None,
    pdf: Annotated[Path | None, typer.Option(help="Also write figures and charts as one PDF.")] = None,
    log: Annotated[
        list[str] | None, typer.Option(help="Also send figures and page to tensorboard, mlflow or wandb.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about a run; exit status 1 where a threshold is missed."""
    from advreg.cli.report import ReportOptions, run_report

    options = ReportOptions(
        run=run,
        out=out,
        junit=junit,
        fail_under=tuple(fail_under or ()),
        model_card=model_card,
        png=png,
        csv=csv,
        pdf=pdf,
        logs=tuple(log or ()),
        as_json=as_json,
    )
    if not run_report(options):
        raise typer.Exit(1)


@app.command()
def compare(
    runs: Runs,
    baseline: Annotated[
        str | None, typer.Option(metavar="NAME|RUN", help="Test every run against this one on the same examples.")
    ] = None,
    fail_if_worse: Annotated[
        bool, typer.Option("--fail-if-worse", help="Exit status 1 where a run is worse than the baseline.")
    ] = False,
    save_baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="Store the run under this name in .advreg/baselines.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write this HTML page.")] = None,
    as_json: Json = False,
) -> None:
    """Compare several runs in one table, with exact paired tests on the same examples."""
    from advreg.cli.compare import CompareOptions, run_compare

    if not run_compare(CompareOptions(runs, baseline, fail_if_worse, save_baseline, html, as_json)):
        raise typer.Exit(1)


@app.command()
def gate(
    champion: Annotated[Path, typer.Argument(help="Run folder of the deployed or trained model.")],
    challenger: Annotated[Path | None, typer.Argument(help="Run folder of the one to replace it.")] = None,
    artefact: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="What is shipped, instead: an .onnx or .pt2 file, float or int8, or http://..."
        ),
    ] = None,
    data: Data = None,
    threat: Threat = None,
    protocol: Annotated[
        str | None, typer.Option(help="Attack on the artefact; id of the evaluations, where the runs hold several.")
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Number of test examples for an artefact, from the first.")] = 500,
    margin: Annotated[
        float | None, typer.Option(help="Accepted loss of accuracy; 0.02 for an artefact, 0.01 of clean accuracy else.")
    ] = None,
    out: ResultFolder = None,
    seed: Seed = 0,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Decide whether a run or a deployed artefact may replace a run: status 0 promote, 1 rejected.

    An artefact is attacked beside the trained model on the same examples, each with the points of the other too.
    """
    from advreg.cli.gate import GateOptions, run_gate

    options = GateOptions(champion, challenger, artefact, data, threat, protocol, n, margin, out, seed, as_json)
    if not run_gate(options):
        raise typer.Exit(1)


@app.command()
def dossier(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the files; the run folder by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write what standards call for (EU AI Act, ISO/IEC 24029, NIST, MITRE ATLAS), filled from a run with hashes.

    A field without a measurement names the command that would make it.
    """
    from advreg.cli.dossier import run_dossier

    run_dossier(run, out, as_json=as_json)


@app.command()
def leaderboard(
    folder: Annotated[Path, typer.Argument(help="Folder that holds run folders, at any depth.")],
    html: Annotated[Path | None, typer.Option(help="Page to write; leaderboard.html in the folder by default.")] = None,
    as_json: Json = False,
) -> None:
    """Rank the evaluated runs under a folder, by protocol, with intervals and published figures."""
    from advreg.cli.leaderboard import run_leaderboard

    run_leaderboard(folder, html, as_json=as_json)


@app.command(epilog="Example: advreg merge parts/0 parts/1 --out runs/net")
def merge(
    parts: Annotated[list[Path], typer.Argument(help="Folders or ledgers that --shard wrote.")],
    out: Annotated[Path, typer.Option(help="Run folder for the joined ledger and the figures.")],
    as_json: Json = False,
) -> None:
    """Join the shards of an evaluation: one ledger, as a single process writes it, and its figures."""
    from advreg.cli.merge import run_merge

    run_merge(parts, out, as_json=as_json)

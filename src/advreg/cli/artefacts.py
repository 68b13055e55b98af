"""The verbs ``report`` and ``export``: what a run leaves for other people and other programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from advreg import report
from advreg.errors import ConfigError, RunError
from advreg.report import read
from advreg.report.record import load_or_empty
from advreg.runs.files import write_atomic


@dataclass(frozen=True)
class ReportOptions:
    """What the command line asks of a report."""

    run: Path
    out: Path | None = None
    junit: Path | None = None
    fail_under: tuple[str, ...] = ()
    model_card: Path | None = None
    as_json: bool = False


def run_report(wish: ReportOptions) -> bool:
    """Write the page and whatever else is asked for; return whether every threshold is reached."""
    limits = [report.Threshold.parse(text) for text in wish.fail_under]
    files = {"html": report.write(wish.run, wish.out)}
    found: list[report.Case] = []
    if wish.junit or limits or wish.model_card:
        facts = read.run(wish.run)
        if wish.junit or limits:
            found = report.cases(facts, limits)
        if wish.junit:
            write_atomic(wish.junit, report.junit(facts, found))
            files["junit"] = wish.junit
        if wish.model_card:
            write_atomic(wish.model_card, report.model_card(facts))
            files["model_card"] = wish.model_card
    _say(wish, files, found)
    return not any(case.problem for case in found)


def _say(wish: ReportOptions, files: dict[str, Path], found: list[report.Case]) -> None:
    if wish.as_json:
        told = {name: str(path) for name, path in files.items()}
        typer.echo(json.dumps({"files": told, "cases": [asdict(case) for case in found]}))
        return
    for path in files.values():
        typer.echo(path)
    for case in found:
        if case.problem:
            typer.echo(f"{case.protocol}: {case.problem}", err=True)


def run_export(run: Path, onnx: Path | None, program: Path | None, as_json: bool) -> None:
    """Write the model of a run folder for other programs.

    Raises:
        ConfigError: neither format was asked for.
        RunError: the run folder does not say what its model takes.
    """
    if onnx is None and program is None:
        raise ConfigError("nothing to export; give --onnx FILE, --torch FILE or both")
    from advreg import export, models

    model = models.load(str(run))
    shape = load_or_empty(run / "model.json").get("shape")
    if not isinstance(shape, list) or not all(isinstance(side, int) for side in shape):
        raise RunError(f'{run}/model.json does not hold the shape of the input; train again, or add "shape": [C, H, W]')
    wanted = {"onnx": (export.onnx_file, onnx), "torch": (export.torch_file, program)}
    files = {name: str(write(model, shape, path)) for name, (write, path) in wanted.items() if path is not None}
    typer.echo(json.dumps({"files": files}) if as_json else "\n".join(files.values()))

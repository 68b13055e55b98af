"""The verb ``evaluate``: fill in what a run folder knows, measure, print, write the report."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from torch import nn

from advreg import data as datasets
from advreg import distributed, models, report, runtime
from advreg.cli import progress, tables
from advreg.cli.resolution import ModelSource, parse_radii
from advreg.data import Dataset
from advreg.evaluation import Curve, Evaluation, evaluate, minimum_norms, resolve, robustness_curve
from advreg.report import prose
from advreg.threat import ThreatModel


@dataclass(frozen=True)
class EvaluateOptions:
    """What the command line asks for."""

    model: str
    data: str | None = None
    threat: str | None = None
    protocol: str = "basic"
    attacks: list[str] = field(default_factory=list)
    weights: Path | None = None
    n: int = 1000
    curve: str = ""
    distances: bool = False
    out: Path | None = None
    seed: int = 0
    precision: str = "float32"
    compiled: bool = False
    device: str = "auto"
    as_json: bool = False


@dataclass(frozen=True)
class EvaluationSetup:
    """What a wish becomes: a model on its device, the test examples, the threat, the folder."""

    model: nn.Module
    test: Dataset
    threat: ThreatModel
    folder: Path | None


def run_evaluate(wish: EvaluateOptions) -> None:
    """Evaluate a run folder or a model by name; under ``torchrun``, with all processes together."""
    with distributed.join_processes() as among:
        bench = _prepare(wish)
        found = _measure(wish, bench, among)
        if not among.is_main:
            return
        where = bench.folder / "evaluation" / found.protocol if bench.folder else None
        line, median = _curve(wish, bench, where)
        if wish.as_json:
            more = {
                **({"curve": line.record()} if line else {}),
                **({} if median is None else {"median_distance": median}),
            }
            typer.echo(json.dumps(found.record() | more))
            return
        _show(found, line, median)
        if bench.folder is not None:
            print(f"report: {report.write(bench.folder)}", file=sys.stderr)


def _prepare(wish: EvaluateOptions) -> EvaluationSetup:
    source = ModelSource.of(wish.model)
    threat, name = source.threat(wish.threat), source.data(wish.data)
    parse_radii(wish.curve)  # a mistake is reported before hours of work, not after
    model = models.load(wish.model, weights=wish.weights).to(runtime.choose_device(wish.device))
    return EvaluationSetup(model, datasets.load(name)[1], threat, source.output(wish.out))


def _measure(wish: EvaluateOptions, bench: EvaluationSetup, among: distributed.Ranks) -> Evaluation:
    protocol = resolve(wish.protocol, bench.threat.norm).followed_by(*wish.attacks)
    options: dict[str, Any] = {"precision": wish.precision, "compiled": wish.compiled, "ranks": among}
    with progress.evaluating(quiet=wish.as_json or not among.is_main) as watch:
        return evaluate(
            bench.model,
            bench.test,
            threat=bench.threat,
            protocol=protocol,
            n=min(wish.n, len(bench.test)),
            seed=wish.seed,
            out=bench.folder,
            on_progress=watch,
            **options,
        )


def _curve(wish: EvaluateOptions, bench: EvaluationSetup, where: Path | None) -> tuple[Curve | None, float | None]:
    """Return the robustness curve and the median distance to the boundary, as far as they are asked for."""
    n, radii, threat = min(wish.n, len(bench.test)), parse_radii(wish.curve), bench.threat
    options: dict[str, Any] = {"norm": threat.norm, "box": threat.box, "n": n, "seed": wish.seed, "out": where}
    if not wish.distances:
        return (robustness_curve(bench.model, bench.test, eps=radii, **options) if radii else None), None
    found = minimum_norms(bench.model, bench.test, **options)
    if not radii:
        return found.curve(), found.median
    return robustness_curve(bench.model, bench.test, eps=radii, distances=found.distances, **options), found.median


def _show(found: Evaluation, line: Curve | None, median: float | None) -> None:
    tables.show(tables.evaluation(found))
    rate = f"{tables.percent(found.attack_success_rate)} {tables.span(found.attack_success_interval)}"
    typer.echo(f"attack success rate: {rate}")
    typer.echo(
        f"verdict: {found.verdict or 'none yet, too little was tried'} (free checks; advreg diagnose looks closer)"
    )
    if unequal := prose.balance(found.per_class):
        typer.echo(unequal)
        tables.show(tables.classes(found.per_class))
    for check in found.checks:
        if check.verdict in ("suspect", "fail"):
            typer.echo(f"  {check.name}: {check.says}; {check.remedy}")
    if line:
        cells = [(f"{p.eps:.4g}", tables.percent(p.robust_accuracy), tables.span(p.interval)) for p in line.points]
        tables.show(tables.table(f"robustness curve, {line.attack}", ("eps", "robust", "95% interval"), cells))
        typer.echo(f"verdict on the curve: {line.verdict or 'none yet, too little was tried'}")
    if median is not None:
        typer.echo(f"median distance to the boundary: {median:.4g}")

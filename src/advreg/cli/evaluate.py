"""The verb ``evaluate``: fill in what a run folder knows, measure, print, write the report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from advreg import data as datasets
from advreg import models, report
from advreg.cli import progress, tables
from advreg.config import Config
from advreg.errors import ConfigError, ThreatError
from advreg.evaluation import evaluate, robustness_curve
from advreg.threat import ThreatModel


def run_evaluate(
    model: str,
    data: str | None,
    threat: str | None,
    protocol: str,
    weights: Path | None,
    n: int,
    curve: str,
    out: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Evaluate a run folder or a model by name; arguments as on the command line."""
    run = Path(model) if (Path(model) / "run.toml").is_file() else None
    config = Config.load(run / "run.toml") if run else None
    chosen, name = _threat(threat, config), data or (config.data.name if config else None)
    if name is None:
        raise ConfigError(f"no data for {model}: add --data, such as --data mnist")
    radii = _radii(curve)
    network = models.load(model, weights=weights)
    _, test = datasets.load(name)
    folder = out or run
    with progress.evaluating(quiet=as_json) as watch:
        count = min(n, len(test))
        found = evaluate(
            network, test, threat=chosen, protocol=protocol, n=count, seed=seed, out=folder, on_progress=watch
        )
    if radii:
        where = folder / "evaluation" / found.protocol if folder else None
        line = robustness_curve(network, test, norm=chosen.norm, eps=radii, n=count, seed=seed, out=where)
    if as_json:
        typer.echo(json.dumps(found.record() | ({"curve": line.record()} if radii else {})))
        return
    tables.show(tables.evaluation(found))
    rate = f"{tables.percent(found.attack_success_rate)} {tables.span(found.attack_success_interval)}"
    typer.echo(f"attack success rate: {rate}")
    if radii:
        cells = [(f"{p.eps:g}", tables.percent(p.robust_accuracy), tables.span(p.interval)) for p in line.points]
        tables.show(tables.table(f"robustness curve, {line.attack}", ("eps", "robust", "95% interval"), cells))
    if folder is not None:
        print(f"report: {report.write(folder)}", file=sys.stderr)


def _threat(text: str | None, config: Config | None) -> ThreatModel:
    if text is not None:
        return ThreatModel.parse(text)
    if config is None or not config.threat.eps:
        raise ThreatError("no threat given: add --threat norm:eps, such as --threat linf:8/255")
    return ThreatModel(config.threat.norm, config.threat.eps)  # type: ignore[arg-type]  # checked by ThreatModel


def _radii(text: str) -> list[float]:
    return [float(ThreatModel.parse(f"l2:{part}").eps) for part in text.split(",") if part.strip()]

"""The verb ``evaluate``: robust accuracy, and on request a robustness curve, distances and accuracy under corruptions."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import typer
from torch import nn

from advreg import distributed, models, report, runtime
from advreg.attacks.corruptions import CORRUPTIONS
from advreg.certification import Certification, certify_as_recorded
from advreg.cli import progress, tables
from advreg.cli.resolution import ModelSource, parse_radii
from advreg.data import Dataset, StreamingDataset, Table
from advreg.engines import Shard, engine_of
from advreg.engines.shards import shard_template
from advreg.errors import ConfigError
from advreg.evaluation import (
    DEFAULT_PROTOCOL,
    CorruptionAccuracy,
    Curve,
    Evaluation,
    evaluate,
    evaluate_corruptions,
    minimum_norms,
    resolve,
    robustness_curve,
)
from advreg.evaluation.corruptions import require_corruptions
from advreg.evaluation.evaluate import EvaluationProgress
from advreg.evaluation.examples import threat_on
from advreg.evaluation.shards import evaluate_shard
from advreg.published import figure_of
from advreg.report import formatting, prose
from advreg.report.facts import ThreatFacts
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of ``advreg evaluate``, as the command line gives them.

    Attributes:
        model: a run folder or the name of a model.
        data, threat: the run's own if None.
        box: lowest and highest valid value of an input, ``low,high``; that of data or run if empty.
        features: ``features.toml`` with types, limits and units of the columns; eps then counts in these units.
        protocol: name of the protocol.
        attacks: own attacks, ``pkg.module:function`` each.
        weights: safetensors or state dict.
        n: test examples, from the first.
        curve: radii separated by commas; empty for no curve.
        certify: whether bounds prove what they can before the attacks, which then run on the rest.
        distances: whether to measure each example's distance to the boundary.
        task: name of a task with its options, or ``pkg.module:factory``; the run's own, or classes, if None.
        corruptions: names separated by commas, or ``all``; empty for none.
        severities: of the corruptions, separated by commas.
        out: folder to write into; the run folder if None.
        seed: of all random draws.
        precision: of the fast copy: float32, bfloat16 or auto.
        compiled: whether to compile the fast copy.
        device: auto, cpu, cuda, ...
        as_json: print one JSON object instead of text.
        shard: ``number/count``, to do one part of the work; None for all of it.
        engine: local or ray; None for this process.
        workers: of the engine.
    """

    model: str
    data: str | None = None
    threat: str | None = None
    box: str = ""
    features: Path | None = None
    protocol: str = DEFAULT_PROTOCOL
    attacks: list[str] = field(default_factory=list)
    weights: Path | None = None
    n: int = 1000
    curve: str = ""
    certify: bool = False
    distances: bool = False
    task: str | None = None
    corruptions: str = ""
    severities: str = "1,2,3,4,5"
    out: Path | None = None
    seed: int = 0
    precision: str = "float32"
    compiled: bool = False
    device: str = "auto"
    as_json: bool = False
    shard: str | None = None
    engine: str | None = None
    workers: int | None = None


@dataclass(frozen=True)
class EvaluationSetup:
    """What the options resolve to: a model on its device, test examples, radii, corruptions and the output folder."""

    model: nn.Module
    test: Dataset | Table | StreamingDataset
    n: int
    threat: ThreatModel
    folder: Path | None
    radii: list[float]
    corruptions: list[str]
    severities: list[int]
    task: Task = CLASSES


@dataclass(frozen=True)
class EvaluationResults:
    """Everything that one call of the verb measured; None where it was not requested."""

    evaluation: Evaluation
    curve: Curve | None = None
    median_distance: float | None = None
    corruptions: CorruptionAccuracy | None = None

    def record(self) -> dict[str, Any]:
        """Return the figures as ``--json`` prints them."""
        extra = {
            "curve": self.curve.record() if self.curve else None,
            "median_distance": self.median_distance,
            "corruptions": self.corruptions.record() if self.corruptions else None,
        }
        return self.evaluation.record() | {key: value for key, value in extra.items() if value is not None}


def run_evaluate(options: EvaluateOptions) -> None:
    """Evaluate a run folder or a model by name; under ``torchrun``, with all processes together.

    Args:
        options: options of ``advreg evaluate``.
    """
    if options.shard is not None:
        _evaluate_shard(options, Shard.parse(options.shard))
        return
    with distributed.join_processes() as ranks:
        setup = _prepare(options)
        evaluation = _evaluate(options, setup, ranks)
        if not ranks.is_main:
            return
        folder = setup.folder / "evaluation" / evaluation.protocol if setup.folder else None
        curve, median = _curve(options, setup, folder)
        results = EvaluationResults(evaluation, curve, median, _corruptions(options, setup, folder))
        if options.as_json:
            typer.echo(json.dumps(results.record()))
            return
        _print(results)
        _print_published(options.model, setup.threat)
        if setup.folder is not None:
            print(f"report: {report.write(setup.folder)}", file=sys.stderr)


def _evaluate_shard(options: EvaluateOptions, shard: Shard) -> None:
    """Evaluate one shard; curves, distances and corruptions are measured after the merge, on the run folder."""
    if options.curve or options.distances or options.corruptions:
        raise ConfigError("--shard goes with the protocol alone; leave --curve, --distances and --corruptions out")
    if options.certify:
        raise ConfigError("--certify goes with one process; leave --shard out")
    if options.precision == "auto":
        raise ConfigError("--precision auto may choose differently on each machine; give float32 or bfloat16")
    setup = _prepare(options)
    if setup.folder is None:
        raise ConfigError("--shard writes a ledger; give --out FOLDER")
    command = shlex.join(["advreg", *shard_template(sys.argv[1:])])
    with progress.evaluating(quiet=options.as_json) as watch:
        ledger = evaluate_shard(shard=shard, out=setup.folder, command=command, **_arguments(options, setup, watch))
    typer.echo(json.dumps({"shard": str(shard), "ledger": str(ledger)}) if options.as_json else ledger)
    print(f"shard {shard} is done; when all are: advreg merge {setup.folder} --out RUN", file=sys.stderr)


def _prepare(options: EvaluateOptions) -> EvaluationSetup:
    """Resolve every option; a mistake is reported here, before hours of work."""
    source = ModelSource.of(options.model)
    names, severities = parse_corruptions(options.corruptions, options.severities)
    task = source.task(options.task)
    sets = cache(lambda: source.data_sets(options.data, task))
    threat = source.threat(options.threat, options.box, options.features, sets)
    model = models.load(options.model, weights=options.weights).to(runtime.choose_device(options.device))
    test = sets()[1]
    threat = threat_on(test, threat)
    radii = parse_radii(options.curve, "snr" if threat.relative else "l2")
    if threat.limits is not None and options.distances:
        raise ConfigError("distances know no units, rules or snr; leave --distances out, and measure a --curve")
    if task is not CLASSES and (names or options.distances):
        raise ConfigError(f"corruptions and distances are for classes, the task is {task.name}; leave them out")
    if names:
        require_corruptions(test.tensors(1)[0], names, severities)
    return EvaluationSetup(
        model=model,
        test=test,
        n=min(options.n, len(test)),
        threat=threat,
        folder=source.output(options.out),
        radii=radii,
        corruptions=names,
        severities=severities,
        task=task,
    )


def parse_corruptions(names: str, severities: str) -> tuple[list[str], list[int]]:
    """Parse the names of corruptions and their severities, each separated by commas.

    Args:
        names: such as ``fog,contrast``; ``all`` for all fifteen, empty for none.
        severities: such as ``1,3,5``.

    Returns:
        Names and severities.

    Raises:
        ConfigError: a severity is not a whole number.

    Example:
        >>> parse_corruptions("fog, contrast", "1,5")
        (['fog', 'contrast'], [1, 5])
    """
    try:
        levels = [int(part) for part in severities.split(",") if part.strip()]
    except ValueError:
        raise ConfigError(f"--severities is {severities!r}; write numbers from 1 to 5, such as 1,3,5") from None
    chosen = [part.strip() for part in names.split(",") if part.strip()]
    return (list(CORRUPTIONS) if chosen == ["all"] else chosen), levels


def _evaluate(options: EvaluateOptions, setup: EvaluationSetup, ranks: distributed.Ranks) -> Evaluation:
    with progress.evaluating(quiet=options.as_json or not ranks.is_main) as watch:
        certificate = _certificate(options, setup, ranks)
        return evaluate(ranks=ranks, out=setup.folder, certificate=certificate, **_arguments(options, setup, watch))


def _arguments(
    options: EvaluateOptions, setup: EvaluationSetup, watch: Callable[[EvaluationProgress], None]
) -> dict[str, Any]:
    """Return what an evaluation and a shard of it take in common."""
    threat = setup.threat
    protocol = resolve(options.protocol, threat.norm, setup.task, limited=threat.limits is not None)
    return {
        "model": setup.model,
        "data": setup.test,
        "threat": threat,
        "protocol": protocol.followed_by(*options.attacks),
        "task": setup.task,
        "n": setup.n,
        "seed": options.seed,
        "on_progress": watch,
        "precision": options.precision,
        "compiled": options.compiled,
        "engine": engine_of(options.engine, options.workers),
    }


def _certificate(options: EvaluateOptions, setup: EvaluationSetup, ranks: distributed.Ranks) -> Certification | None:
    """Return what bounds prove, or the certificate that the run folder holds; None where it is not requested."""
    if not options.certify:
        return None
    if setup.task is not CLASSES or setup.threat.limits is not None or ranks.world_size > 1:
        raise ConfigError("--certify is for classes, a plain eps and one process; certify the run first, without it")
    return certify_as_recorded(setup.model, setup.test, setup.threat, n=setup.n, seed=options.seed, out=setup.folder)


def _curve(options: EvaluateOptions, setup: EvaluationSetup, folder: Path | None) -> tuple[Curve | None, float | None]:
    """Return the robustness curve and the median distance to the boundary, each None where it is not requested."""
    threat, radii = setup.threat, setup.radii
    distances = None
    shared: dict[str, Any] = {"n": setup.n, "seed": options.seed, "out": folder}
    if options.distances:
        norms = minimum_norms(setup.model, setup.test, norm=threat.norm, box=threat.box, **shared)
        if not radii:
            return norms.curve(), norms.median
        distances = norms.distances
    if not radii:
        return None, None
    shared |= {"distances": distances, "task": setup.task}
    curve = robustness_curve(setup.model, setup.test, norm=threat, eps=radii, **shared)
    return curve, None if distances is None else norms.median


def _corruptions(options: EvaluateOptions, setup: EvaluationSetup, folder: Path | None) -> CorruptionAccuracy | None:
    """Return the accuracy under corruptions; None where none is requested."""
    if not setup.corruptions:
        return None
    with progress.counting("corruptions", quiet=options.as_json) as watch:
        return evaluate_corruptions(
            setup.model,
            setup.test,
            corruptions=setup.corruptions,
            severities=setup.severities,
            n=setup.n,
            seed=options.seed,
            out=folder,
            on_progress=watch,
        )


def _print_published(name: str, threat: ThreatModel) -> None:
    """Print the published figure of a model, where the table has it under this threat."""
    if figure := figure_of(name, threat.norm, float(threat.eps)):
        typer.echo(figure.sentence)


def _print(results: EvaluationResults) -> None:
    print_evaluation(results.evaluation)
    if results.curve:
        _print_curve(results.curve)
    if results.median_distance is not None:
        typer.echo(f"median distance to the boundary: {results.median_distance:.4g}")
    if results.corruptions:
        tables.show(tables.corruptions(results.corruptions))
        typer.echo(f"mean corruption accuracy: {tables.percent(results.corruptions.mean_accuracy)}")


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the figures of an evaluation as tables.

    Args:
        evaluation: the figures.
    """
    tables.show(tables.evaluation(evaluation))
    if evaluation.task == "classes":
        rate = f"{tables.percent(evaluation.attack_success_rate)} {tables.span(evaluation.attack_success_interval)}"
        typer.echo(f"attack success rate: {rate}")
    if evaluation.certified_accuracy is not None and evaluation.certified_interval is not None:
        proved = f"{tables.percent(evaluation.certified_accuracy)} {tables.span(evaluation.certified_interval)}"
        typer.echo(f"proved, and not attacked: {proved}")
    for name, figure in evaluation.corpus.items():
        typer.echo(f"{name}: clean {figure['clean']:.4f}, at the worst points {figure['robust']:.4f}")
    verdict = evaluation.verdict or "none yet, too few attacks were tried"
    typer.echo(f"verdict: {verdict} (free checks; advreg diagnose tests further)")
    if imbalance := prose.balance(evaluation.per_class):
        typer.echo(imbalance)
        tables.show(tables.classes(evaluation.per_class))
    for check in evaluation.checks:
        if check.verdict in ("suspect", "fail"):
            typer.echo(f"  {check.name}: {check.says}; {check.remedy}")


def _print_curve(curve: Curve) -> None:
    sizes = [formatting.eps(ThreatFacts(curve.norm, p.eps, features=curve.features)) for p in curve.points]
    cells = [
        (size, tables.percent(p.robust_accuracy), tables.span(p.interval))
        for size, p in zip(sizes, curve.points, strict=True)
    ]
    robust = "robust" if curve.task == "classes" else "score"
    tables.show(tables.table(f"robustness curve, {curve.attack}", ("eps", robust, "95% interval"), cells))
    typer.echo(f"verdict on the curve: {curve.verdict or 'none yet, too few attacks were tried'}")

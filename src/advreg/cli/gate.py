"""The verb ``gate``: a challenger against the champion, or a deployed artefact against the model that was trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import typer

from advreg.cli.resolution import ModelSource
from advreg.errors import ConfigError
from advreg.hardening.gate import Decision, gate


@dataclass(frozen=True)
class GateOptions:
    """Options of ``advreg gate``.

    Attributes:
        champion: run folder of the deployed or trained model.
        challenger: run folder of the model to replace it; None with ``artefact``.
        artefact: the file that is shipped, or the name of a model.
        data, threat: the run's own if None.
        protocol: of the attack, or of the evaluations to compare.
        n: test examples, from the first.
        margin: accepted loss of accuracy.
        out: folder for the decision.
        seed: of all random draws.
        as_json: print one JSON object instead of text.
    """

    champion: Path
    challenger: Path | None = None
    artefact: str | None = None
    data: str | None = None
    threat: str | None = None
    protocol: str | None = None
    n: int = 500
    margin: float | None = None
    out: Path | None = None
    seed: int = 0
    as_json: bool = False


def run_gate(options: GateOptions) -> bool:
    """Return whether the challenger or the artefact may replace the champion, after printing the decision.

    Args:
        options: options of ``advreg gate``.

    Returns:
        True for the verdict ``PROMOTE``.

    Raises:
        ConfigError: neither a challenger nor an artefact, or both.
    """
    if (options.challenger is None) == (options.artefact is None):
        raise ConfigError("give a second run folder to compare, or --artefact FILE for what is shipped, and not both")
    if options.artefact is not None:
        decision, out = _gate_artefact(options, options.artefact)
    else:
        out = options.out or Path(str(options.challenger))
        margin = 0.01 if options.margin is None else options.margin
        decision = gate(
            options.champion, str(options.challenger), protocol=options.protocol, clean_margin=margin, out=out
        )
    show(decision, out, as_json=options.as_json)
    return decision.promote


def _gate_artefact(options: GateOptions, artefact: str) -> tuple[Decision, Path]:
    from advreg import models
    from advreg.hardening.deployed_artefact import gate_artefact, load_artefact

    source = ModelSource.of(str(options.champion))
    trained, shipped = models.load(str(options.champion)), load_artefact(artefact)
    name = Path(artefact).name or "artefact"
    out = options.out or options.champion / "artefacts" / name
    test = source.data_sets(options.data)[1]
    decision = gate_artefact(
        trained,
        shipped,
        test,
        source.threat(options.threat),
        protocol=options.protocol or "quick",
        n=min(options.n, len(test)),
        margin=0.02 if options.margin is None else options.margin,
        seed=options.seed,
        names=(options.champion.name, name),
        out=out,
    )
    return decision, out


def show(decision: Decision, folder: Path, *, as_json: bool) -> None:
    """Print a decision: the plan, every condition, and the verdict with the hash of its file.

    Args:
        decision: the decision.
        folder: where ``decision.json`` is.
        as_json: print one JSON object instead.
    """
    if as_json:
        typer.echo(json.dumps(decision.record()))
        return
    for line in decision.plan:
        typer.echo(line)
    for test in decision.tests:
        typer.echo(f"{'ok' if test.passed else 'NO':>4}  {test.name}: {test.says}")
    for reason in () if decision.tests else decision.reasons:
        typer.echo(f"  NO  {reason}")
    typer.echo(f"{decision.verdict}  {decision.sha256[:12]}  {folder / 'decision.json'}")

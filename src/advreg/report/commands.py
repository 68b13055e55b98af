"""The commands that reproduce the figures of a run."""

from __future__ import annotations

import shlex

from advreg.report.facts import CorruptionFacts, CurveFacts, EvaluationFacts, RunFacts, ThreatFacts
from advreg.report.formatting import eps, threat_option
from advreg.report.read import short_name


def commands(run: RunFacts, evaluation: EvaluationFacts | None) -> list[str]:
    """Return the commands that reproduce a training or an evaluation, from the folder that holds the run folder.

    Args:
        run: the run.
        evaluation: one of its evaluations; None for the training.

    Returns:
        At most one command; none where tensors were evaluated from a program, because no command can load them.

    Example:
        >>> from pathlib import Path
        >>> commands(RunFacts(Path("runs/small"), config="[model]"), None)
        ['advreg train small/run.toml']
    """
    if evaluation is None:
        return [f"advreg train {shlex.quote(run.name + '/run.toml')}"] if run.config else []
    recorded = evaluation.environment.get("command")
    if isinstance(recorded, list):
        return [shlex.join(str(word) for word in recorded)]
    if isinstance(recorded, str):
        return [recorded]
    from_a_program = evaluation.data.get("split") == "given"
    return [] if from_a_program else [_evaluate(run, evaluation)]


def _evaluate(run: RunFacts, evaluation: EvaluationFacts) -> str:
    data = evaluation.data.get("name")
    protocol, *own_attacks = short_name(evaluation.protocol).split("+")
    options = {
        "--data": str(data) if data else None,
        "--threat": None if evaluation.threat.limits and run.config else threat_option(evaluation.threat),
        "--protocol": protocol,
        "--n": str(evaluation.n),
        "--seed": str(evaluation.seed),
        "--curve": _grid(evaluation.curve),
    }
    given = [word for key, value in options.items() if value for word in (key, value)]
    given += [word for name in own_attacks for word in ("--attack", ":".join(name.rsplit(".", 1)))]
    given += ["--distances"] if evaluation.norms is not None else []
    given += _corruptions(evaluation.corruptions)
    return shlex.join(["advreg", "evaluate", run.name, *given])


def _corruptions(found: CorruptionFacts | None) -> list[str]:
    if found is None:
        return []
    names = ",".join(row.name for row in found.rows)
    return ["--corruptions", names, "--severities", ",".join(map(str, found.severities))]


def _grid(curve: CurveFacts | None) -> str | None:
    """Return the radii of a curve that attacks measured at each; a curve from distances needs none."""
    if curve is None or curve.attack == "minimum norms" or len(curve.points) > 20:
        return None
    shown = [ThreatFacts(curve.norm, point.eps, features=curve.features) for point in curve.points]
    return ",".join(each.ratio or eps(each) for each in shown)

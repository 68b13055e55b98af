"""The verb ``plan``: passes, time, memory and money of a training, a sweep and an evaluation, before they begin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from advreg import models
from advreg.cli import tables
from advreg.cli.resolution import ModelSource, load_config
from advreg.config.threat import configured_threat
from advreg.documents import parse_json, read_text
from advreg.errors import ConfigError
from advreg.evaluation.costs import EvaluationCosts, Speed, evaluation_costs, measure_speed
from advreg.evaluation.evaluate import prepare_evaluation
from advreg.runs.files import write_atomic
from advreg.training.costs import TrainingCosts, training_costs
from advreg.training.setup import prepare

_SCHEMA = "advreg/speed@1"
_COPIES_OF_WEIGHTS = 4  # weights, gradients, and the state of the optimizer


@dataclass(frozen=True)
class PlanOptions:
    """Options of ``advreg plan``.

    Attributes:
        run: a run.toml or a run folder.
        protocol: of the evaluation.
        n: test examples of the evaluation.
        trials: trainings of a sweep.
        price: of an hour on the machine, in any currency; None for no money.
        calibrate: file for the speed of this machine.
        machine: file with the speed of another machine.
        as_json: print one JSON object instead of text.
    """

    run: Path
    protocol: str = "quick"
    n: int = 1000
    trials: int = 1
    price: float | None = None
    calibrate: Path | None = None
    machine: Path | None = None
    as_json: bool = False


def run_plan(options: PlanOptions) -> None:
    """Print the plan of a run.

    Args:
        options: options of ``advreg plan``.
    """
    found = make_plan(options)
    typer.echo(json.dumps(found) if options.as_json else _text(found))


def make_plan(options: PlanOptions) -> dict[str, Any]:
    """Return the plan of a run: its jobs, each with passes, seconds and money, and what they were measured on.

    Args:
        options: options of ``advreg plan``.

    Returns:
        The plan.

    Raises:
        ConfigError: a price below 0, no trial, or a file that holds no speed.
    """
    if options.trials < 1 or (options.price or 0.0) < 0:
        raise ConfigError(
            f"trials is {options.trials} and price is {options.price}; give 1 or more trials, a price of 0 or more"
        )
    config = load_config(options.run)
    session = prepare(config)
    threat = configured_threat(config)
    source = ModelSource(str(options.run), None, config)
    task = source.task()
    test = source.data_sets(None, task)[1]
    folder = options.run if (options.run / "model.safetensors").is_file() else None
    model = models.load(str(folder)) if folder else session.model.eval()
    n = min(options.n, len(test))
    costs = evaluation_costs(model, test, threat, protocol=options.protocol, n=n, task=task)
    here = measure_speed(prepare_evaluation(model, test, threat, protocol=options.protocol, n=n, task=task))
    if options.calibrate is not None:
        write_speed(options.calibrate, here)
    there = here if options.machine is None else read_speed(options.machine)
    trained = training_costs(session)
    jobs = [_training_job(trained, here, there), _evaluation_job(costs, there)]
    if options.trials > 1:
        jobs.insert(1, _several(jobs[0], options.trials))
    weights = sum(each.numel() * each.element_size() for each in session.model.parameters())
    memory = {
        "training": costs.bytes * config.train.batch_size + _COPIES_OF_WEIGHTS * weights,
        "evaluation": costs.bytes * min(costs.rows, n) + weights,
    }
    return {
        "jobs": [job | _money(job, options.price) for job in jobs],
        "memory": memory,
        "machine": dict(there.machine),
        "trained": folder is not None,
        "stages": [asdict(stage) for stage in costs.stages],
        "unmeasured": costs.unmeasured,
    }


def _training_job(costs: TrainingCosts, here: Speed, there: Speed) -> dict[str, Any]:
    """Return the training; on another machine its time changes as that of its passes does."""
    forwards, backwards = costs.forwards + costs.validation_forwards, costs.backwards + costs.validation_backwards
    ratio = there.seconds(forwards, backwards) / here.seconds(forwards, backwards)
    return {
        "job": "training",
        "forwards": costs.forwards,
        "backwards": costs.backwards,
        "validation_forwards": costs.validation_forwards,
        "validation_backwards": costs.validation_backwards,
        "seconds": costs.seconds * ratio,
    }


def _several(job: Mapping[str, Any], trials: int) -> dict[str, Any]:
    return {key: value if key == "job" else value * trials for key, value in job.items()} | {
        "job": f"sweep of {trials}"
    }


def _evaluation_job(costs: EvaluationCosts, speed: Speed) -> dict[str, Any]:
    return {
        "job": f"evaluation, {costs.protocol}, {costs.n} examples",
        "forwards": costs.forwards,
        "backwards": costs.backwards,
        "most_forwards": costs.most[0],
        "most_backwards": costs.most[1],
        "seconds": speed.seconds(costs.forwards, costs.backwards),
        "most_seconds": speed.seconds(*costs.most),
    }


def _money(job: Mapping[str, Any], price: float | None) -> dict[str, Any]:
    return {} if price is None else {"money": job["seconds"] / 3600 * price}


def write_speed(path: Path, speed: Speed) -> None:
    """Write the speed of this machine, for a plan on another one.

    Args:
        path: the file.
        speed: what was measured.
    """
    record = {"schema": _SCHEMA, **asdict(speed)}
    write_atomic(path, json.dumps(record, indent=2) + "\n")


def read_speed(path: Path) -> Speed:
    """Read the speed of another machine.

    Args:
        path: a file of ``advreg plan --calibrate``.

    Returns:
        The speed.

    Raises:
        ConfigError: no such file, or it holds something else.
    """
    try:
        record = parse_json(read_text(path))
        if record["schema"] != _SCHEMA:
            raise ValueError
        return Speed(float(record["forward"]), float(record["backward"]), dict(record["machine"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path} holds no speed of a machine; write one there with: advreg plan RUN --calibrate {path.name}"
        ) from None


def _text(plan: Mapping[str, Any]) -> str:
    money = any("money" in job for job in plan["jobs"])
    names = ["job", "forwards", "backwards", "time", *(["money"] if money else [])]
    rows = [
        [job["job"], f"{job['forwards']:,}", f"{job['backwards']:,}", tables.minutes(job["seconds"])]
        + ([f"{job['money']:.2f}"] if money else [])
        for job in plan["jobs"]
    ]
    widths = [max(len(row[k]) for row in [names, *rows]) for k in range(len(names))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [names, *rows]
    ]
    last = plan["jobs"][-1]
    lines.append(f"evaluation at most {last['most_forwards']:,} forwards, {last['most_backwards']:,} backwards")
    lines.append(
        f"memory: training {_size(plan['memory']['training'])}, evaluation {_size(plan['memory']['evaluation'])}"
    )
    if not plan["trained"]:
        lines.append("the network is not trained yet: more examples survive later, up to the cost at most")
    if plan["unmeasured"]:
        lines.append(
            f"not in these figures, for no example of the sample reached them: {', '.join(plan['unmeasured'])}"
        )
    return "\n".join(lines)


def _size(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"

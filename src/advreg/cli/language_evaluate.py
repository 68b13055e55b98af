"""The verbs ``language attack`` and ``language evaluate``: evaluate a model and print every metric."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from advreg.cli import progress, tables
from advreg.cli.language_inputs import (
    load_for_evaluation,
    parse_attacks,
    prompt_sizes,
    read_data,
    read_judges,
)
from advreg.cli.language_options import DataFiles, EvaluationOptions
from advreg.language.attacks.soft_prompt import measure_step
from advreg.language.datasets import HarmfulRequest
from advreg.language.evaluation.evaluate import (
    LanguageEvaluation,
    LanguageEvaluationProgress,
    evaluate,
)
from advreg.language.evaluation.tasks import Attack
from advreg.language.judges import RemoteJudge
from advreg.language.models.loading import LanguageModel
from advreg.language.sweep.plan import subsample
from advreg.language.training.folder import CONFIG

_NOTES = {"attack_success/soft_prompt": "; the slowest task, faster with --attack soft_prompt:steps=20"}


def run_evaluate(
    name: str, files: DataFiles, options: EvaluationOptions, *, out: Path | None, base: Path | None, as_json: bool
) -> None:
    """Evaluate a model and print a table of all metrics.

    Args:
        name: a run folder or the name of a model.
        files: the data files.
        options: attacks, sizes and judges.
        out: folder to write into; the run folder if None.
        base: folder with the evaluation of the base model, for paired differences.
        as_json: print one JSON object instead of text.
    """
    data = subsample(read_data(files), prompt_sizes(options.n), options.seed)
    attacks, judges = parse_attacks(options.attacks), read_judges(files.labels, options)
    lm, reference, scaled = load_for_evaluation(name, options)
    for line in _soft_prompt_size(lm, attacks, data.requests):
        typer.echo(line, err=True)
    is_whole_run = (Path(name) / CONFIG).is_file() and options.scale == 1
    with scaled, progress.stages("evaluating", quiet=as_json) as show:
        result = evaluate(
            lm,
            data,
            attacks=attacks,
            judge=judges.refusals,
            harm=judges.harm,
            rater=judges.rater,
            reference=reference,
            base=base,
            seed=options.seed,
            max_new_tokens=options.tokens,
            task_tokens=options.task_tokens,
            out=out or (Path(name) if is_whole_run else None),
            on_progress=lambda at: show(at.stage, at.done, at.total, _stage_line(at)),
        )
    if as_json:
        typer.echo(json.dumps(result.record()))
        return
    tables.show(metrics_table(result.record()))
    for line in (*_notes(result), *(_service_problems(judges.rater) if judges.rater else ())):
        typer.echo(line)


def _stage_line(at: LanguageEvaluationProgress) -> str:
    """Return a line at the beginning of a task."""
    return "" if at.done else f"evaluating: {at.stage}, {at.total} prompts{_NOTES.get(at.stage, '')}"


def metrics_table(results: Mapping[str, Any]) -> Table:
    """Return the table of every metric: its raw value, its interval, its corrected value and its difference to the base.

    Args:
        results: the content of results.json.
    """
    cells = []
    for path, estimate in walk_metrics(results["axes"]):
        name, change = " ".join(path).replace("_", " "), _value_at(results.get("differences") or {}, path)
        cells.append((name, *_cells(path, estimate), _count(estimate), _difference_cell(path, change)))
    columns = ("metric", "raw", "95% interval", "corrected", "n", "difference to base")
    return tables.table(results["model"], columns, cells)


def walk_metrics(
    metrics: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield each metric of nested results with its path of names; over-refusal by type is left out.

    Args:
        metrics: the section ``axes`` of results.json.
        path: names that lead to it.

    Example:
        >>> list(walk_metrics({"factual": {"mc1": {"value": 0.5}}}))
        [(('factual', 'mc1'), {'value': 0.5})]
    """
    for name, value in metrics.items():
        if isinstance(value, Mapping) and name != "by_type":
            if "value" in value:
                yield (*path, name), value
            else:
                yield from walk_metrics(value, (*path, name))


def _is_share(path: tuple[str, ...]) -> bool:
    return path[0] != "helpfulness" or path[-1] == "repetition"


def _cells(path: tuple[str, ...], estimate: Mapping[str, Any]) -> tuple[str, str, str]:
    low, high = estimate["interval"]
    if not estimate["n"]:
        return "not scored", tables.span((low, high)), "-"
    if not _is_share(path):
        return f"{estimate['value']:.3f}", f"[{low:.3f}, {high:.3f}]", "-"
    corrected = tables.percent(estimate["value"]) if "raw" in estimate else "-"
    return tables.percent(estimate.get("raw", estimate["value"])), tables.span((low, high)), corrected


def _count(estimate: Mapping[str, Any]) -> str:
    unscored = estimate.get("unscored", 0)
    return f"{estimate['n']}" + (f" (+{unscored} unscored)" if unscored else "")


def _difference_cell(path: tuple[str, ...], change: Mapping[str, Any] | None) -> str:
    if not change or "value" not in change:
        return "-"
    factor, digits = (100, 1) if _is_share(path) else (1, 3)
    value, low, high = (f"{factor * number:+.{digits}f}" for number in (change["value"], *change["interval"]))
    return f"{value} [{low}, {high}]"


def _value_at(nested: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = nested
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _notes(result: LanguageEvaluation) -> Iterator[str]:
    """Yield lines about the judges of the metrics, and about absent metrics."""
    judge = result.judge
    if judge["harm"]:
        yield f"attack success: harm by {judge['harm']}; attack effect is the difference from benign prompts, the headline"
        if known := judge.get("harm_calibration"):
            yield f"harm: {_error_rates(known)}"
    elif result.metrics["attack_success"]:
        yield "attack success: completions that are no refusal, an upper bound of harm; give --judge-url to judge harm"
    for name, (done, every) in result.converged.items():
        bound = "an upper bound for text in its place" if done == every else "no upper bound: give it more steps"
        yield f"{name.replace('_', ' ')}: {done} of {every} searches converged, {bound}"
    if judge["n"]:
        yield f"refusals: {judge['name']}; {_error_rates(judge)}"
    else:
        yield f"refusals: {judge['name']}, error rates unknown; give --labels to have them in the intervals"
    if absent := result.metrics["instructions"].get("absent"):
        yield f"instructions: {absent}"


def _error_rates(calibration: Mapping[str, Any]) -> str:
    rates = ", ".join(f"{name} {calibration[name]:.1%}" for name in ("sensitivity", "specificity", "agreement"))
    use = "intervals contain it; it does not support a correction"
    use = "rates are corrected for it" if calibration["corrects"] else use
    return f"on {calibration['n']} completions of {calibration['models']} held-out models: {rates}; {use}"


def _soft_prompt_size(
    lm: LanguageModel, attacks: Mapping[str, Attack], requests: Sequence[HarmfulRequest]
) -> Iterator[str]:
    """Yield the passes and the memory of the soft prompt, the costliest attack, where it is among the attacks."""
    if "soft_prompt" not in attacks or not requests:
        return
    attack = attacks["soft_prompt"]
    defaults = {name: each.default for name, each in inspect.signature(attack).parameters.items()}
    memory = measure_step(lm, requests, tokens=defaults["tokens"]) * min(defaults["batch_size"], len(requests))
    passes = len(requests) * defaults["steps"]
    yield f"soft_prompt: {passes:,} forwards and backwards, and {memory / 1e9:.2g} GB beside the weights"


def _service_problems(service: RemoteJudge) -> Iterator[str]:
    """Yield the problems with a service, the most frequent first."""
    for problem, count in service.problems.most_common(5):
        yield f"judge's service, {count} times: {problem}"

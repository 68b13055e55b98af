"""The verbs ``language attack`` and ``language evaluate``: evaluate a model and print every metric."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from advreg.cli import progress, tables
from advreg.cli.language_inputs import DataFiles, EvaluationOptions, load_for_evaluation
from advreg.language.evaluation.evaluate import (
    LanguageEvaluation,
    LanguageEvaluationProgress,
    OnProgress,
    evaluate,
)
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
    data = subsample(files.read(), options.sizes(), options.seed)
    attacks, rater = options.attack_functions(), options.rater.connect()
    judge = files.judge(options.tokens)
    lm, reference, scaled = load_for_evaluation(name, options)
    is_whole_run = (Path(name) / CONFIG).is_file() and options.scale == 1
    with scaled, _progress_bar(quiet=as_json) as watch:
        result = evaluate(
            lm,
            data,
            attacks=attacks,
            judge=judge,
            rater=rater,
            reference=reference,
            base=base,
            seed=options.seed,
            max_new_tokens=options.tokens,
            task_tokens=options.task_tokens,
            out=out or (Path(name) if is_whole_run else None),
            on_progress=watch,
        )
    if as_json:
        typer.echo(json.dumps(result.record()))
        return
    tables.show(metrics_table(result.record()))
    typer.echo(_judge_line(result))


def metrics_table(results: Mapping[str, Any]) -> Table:
    """Return the table of every metric with its interval and its difference to the base model, where there is one.

    Args:
        results: the content of results.json.
    """
    cells = []
    for path, estimate in walk_metrics(results["axes"]):
        name, change = " ".join(path).replace("_", " "), _value_at(results.get("differences") or {}, path)
        cells.append((name, *_cells(path, estimate), str(estimate["n"]), _difference_cell(path, change)))
    return tables.table(results["model"], ("metric", "value", "95% interval", "n", "difference to base"), cells)


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


def _cells(path: tuple[str, ...], estimate: Mapping[str, Any]) -> tuple[str, str]:
    low, high = estimate["interval"]
    if _is_share(path):
        return tables.percent(estimate["value"]), tables.span((low, high))
    return f"{estimate['value']:.3f}", f"[{low:.3f}, {high:.3f}]"


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


def _judge_line(result: LanguageEvaluation) -> str:
    judge = result.judge
    if not judge["n"]:
        return f"judge: {judge['name']}, error rates unknown; give --labels to measure them and to correct for them"
    rates = ", ".join(f"{name} {judge[name]:.1%}" for name in ("sensitivity", "specificity", "agreement"))
    return (
        f"judge: {judge['name']}; on {judge['n']} completions of held-out models: {rates}; rates are corrected for it"
    )


@contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[OnProgress]:
    """Yield a callback that shows the progress of an evaluation on standard error."""
    console = Console(file=sys.stderr, quiet=quiet)
    with progress.bars(console) as bar:
        task = bar.add_task("evaluating", total=None)

        def watch(at: LanguageEvaluationProgress) -> None:
            if at.done == 0:
                console.print(f"evaluating: {at.stage}, {at.total} prompts{_NOTES.get(at.stage, '')}", highlight=False)
                bar.reset(task)
            bar.update(task, description=f"evaluating: {at.stage}", completed=at.done, total=at.total)

        yield watch

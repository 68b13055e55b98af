"""Figures of tasks: mean scores with intervals in place of shares, and figures of the whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from advreg.evaluation.ledger_columns import first_of_each
from advreg.results.evaluation import AttackSummary, Evaluation
from advreg.results.ledger_rows import CLEAN, Row, score_of, worst_rows
from advreg.score_intervals import figure_interval, score_interval
from advreg.tasks import Task


def with_scores(found: Evaluation, rows: Sequence[Row], stages: Sequence[str], task: Task) -> Evaluation:
    """Return an evaluation with the mean scores of a task in place of shares, and with its figures of the whole data set.

    A task of right and broken examples keeps its shares and exact intervals.

    Args:
        found: figures of the shares of broken examples.
        rows: the ledger's rows.
        stages: names of the attacks in order, `CLEAN` first.
        task: what an output is worth.

    Returns:
        The evaluation; ``scores`` has each example's lowest score.
    """
    clean = {row["id"]: row for row in rows if row["attack"] == CLEAN}
    worst = worst_rows(rows)
    before, after = (np.array([score_of(some[i]) for i in sorted(some)]) for some in (clean, worst))
    corpus = {name: _figure(name, task, clean, worst, found.seed) for name in task.corpus}
    found = replace(found, task=task.name, scores=torch.from_numpy(after), corpus=corpus)
    if not any("score" in row for row in rows):
        return found
    return replace(
        found,
        clean_accuracy=float(before.mean()),
        clean_interval=score_interval(before.tolist(), found.seed),
        robust_accuracy=float(after.mean()),
        interval=score_interval(after.tolist(), found.seed),
        by_attack=tuple(_by_attack(found.by_attack, rows, stages)),
    )


def _by_attack(attacks: Sequence[AttackSummary], rows: Sequence[Row], stages: Sequence[str]) -> list[AttackSummary]:
    """Return the summaries with the mean of the lowest scores after each attack."""
    summaries, done = [], {CLEAN}
    for attack, stage in zip(attacks, stages[1:], strict=True):
        done.add(stage)
        scores = [score_of(row) for row in worst_rows(row for row in rows if row["attack"] in done).values()]
        summaries.append(replace(attack, robust_accuracy=sum(scores) / len(scores)))
    return summaries


def _figure(name: str, task: Task, clean: dict[int, Row], worst: dict[int, Row], seed: int) -> dict[str, Any]:
    """Return a figure of clean and worst points, each with its bootstrap interval."""
    figure = task.corpus[name]
    stored = next(key for key, each in first_of_each(task).items() if each.rows is figure.rows)
    found: dict[str, Any] = {}
    for kind, some in (("clean", clean), ("robust", worst)):
        table = np.array([some[i]["corpus"][stored] for i in sorted(some)], dtype=float)
        found[kind] = figure.figure(table)
        found[f"{kind}_interval"] = list(figure_interval(table, figure.figure, seed))
    return found

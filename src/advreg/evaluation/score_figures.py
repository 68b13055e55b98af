"""Figures of tasks: mean scores with intervals in place of shares, and figures of the whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from advreg.evaluation.ledger_columns import first_of_each
from advreg.results.evaluation import AttackSummary, Evaluation
from advreg.results.ledger_rows import CLEAN
from advreg.results.ledger_table import LedgerTable
from advreg.score_intervals import figure_interval, score_interval
from advreg.tasks import Task


def with_scores(found: Evaluation, table: LedgerTable, stages: Sequence[str], task: Task) -> Evaluation:
    """Return an evaluation with the mean scores of a task in place of shares, and with its figures of the whole data set.

    A task of right and broken examples keeps its shares and exact intervals.

    Args:
        found: figures of the shares of broken examples.
        table: the ledger.
        stages: names of the attacks in order, `CLEAN` first.
        task: what an output is worth.

    Returns:
        The evaluation; ``scores`` has each example's lowest score.
    """
    clean, worst = table.select(table.of(CLEAN)).worst(), table.worst()
    before, after = clean.scores, worst.scores
    corpus = {name: _figure(name, task, clean, worst, found.seed) for name in task.corpus}
    found = replace(found, task=task.name, scores=torch.from_numpy(after), corpus=corpus)
    if not table.has_scores:
        return found
    return replace(
        found,
        clean_accuracy=float(before.mean()),
        clean_interval=score_interval(before.tolist(), found.seed),
        robust_accuracy=float(after.mean()),
        interval=score_interval(after.tolist(), found.seed),
        by_attack=tuple(_by_attack(found.by_attack, table, stages)),
    )


def _by_attack(attacks: Sequence[AttackSummary], table: LedgerTable, stages: Sequence[str]) -> list[AttackSummary]:
    """Return the summaries with the mean of the lowest scores after each attack."""
    summaries, done = [], table.of(CLEAN)
    for attack, stage in zip(attacks, stages[1:], strict=True):
        done = done | table.of(stage)
        scores = table.select(done).worst().scores
        summaries.append(replace(attack, robust_accuracy=float(scores.mean())))
    return summaries


def _figure(name: str, task: Task, clean: LedgerTable, worst: LedgerTable, seed: int) -> dict[str, Any]:
    """Return a figure of clean and worst points, each with its bootstrap interval."""
    figure = task.corpus[name]
    stored = next(key for key, each in first_of_each(task).items() if each.rows is figure.rows)
    found: dict[str, Any] = {}
    for kind, some in (("clean", clean), ("robust", worst)):
        parts = np.array([each[stored] for each in some["corpus"]], dtype=float)
        found[kind] = figure.figure(parts)
        found[f"{kind}_interval"] = list(figure_interval(parts, figure.figure, seed))
    return found

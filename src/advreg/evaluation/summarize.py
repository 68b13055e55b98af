"""Summarise a ledger: every figure of an evaluation is a query on its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from advreg.evaluation.ledger_checks import free_checks
from advreg.evaluation.score_figures import with_scores
from advreg.results.checks import provisional_verdict
from advreg.results.evaluation import AttackSummary, ClassSummary, Evaluation
from advreg.results.ledger_rows import CLEAN, Row
from advreg.results.ledger_table import Column, LedgerTable, table_of
from advreg.statistics import clopper_pearson_interval
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel


def summarize(
    rows: Iterable[Row] | LedgerTable,
    *,
    protocol: str,
    stages: list[str],
    threat: ThreatModel,
    classes: tuple[str, ...],
    seed: int,
    seconds: Mapping[str, float],
    flags: Mapping[str, Any],
    spent: tuple[int, int] = (0, 0),
    task: Task = CLASSES,
) -> Evaluation:
    """Return the figures of a complete set of rows.

    Args:
        rows: the ledger, complete.
        protocol: frozen id.
        stages: names of the attacks in order, `CLEAN` first.
        threat: what the adversary was allowed.
        classes: names of the classes.
        seed: seed of the random draws.
        seconds: wall time spent in each stage.
        flags: findings that affect how far the figures can be trusted.
        spent: example-forwards and example-backwards besides those of the rows.
        task: what an output is worth.

    Returns:
        The evaluation, with counts, intervals and the cost of each attack.

    Example:
        >>> row = {"attack": CLEAN, "id": 0, "label": 1, "broken": False, "margin": -0.5, "forwards": 1, "backwards": 0}
        >>> row |= {"predicted": 1}
        >>> options = {"classes": ("a", "b"), "seed": 0, "seconds": {}, "flags": {}}
        >>> found = summarize([row], protocol="own@1", stages=[CLEAN], threat=ThreatModel("linf", 0.1), **options)
        >>> found.robust_accuracy, found.verdict
        (1.0, None)
    """
    table = table_of(rows)
    clean = table.select(table.of(CLEAN))
    n = len(clean)
    correct, survivors = n - len(clean.broken_ids), n - len(table.broken_ids)
    is_broken = torch.zeros(n, dtype=torch.bool)
    is_broken[torch.from_numpy(table.broken_ids)] = True
    found = Evaluation(
        protocol=protocol,
        threat=threat,
        n=n,
        seed=seed,
        clean_accuracy=correct / n,
        clean_interval=clopper_pearson_interval(correct, n),
        robust_accuracy=survivors / n,
        interval=clopper_pearson_interval(survivors, n),
        attack_success_rate=(correct - survivors) / max(correct, 1),
        attack_success_interval=clopper_pearson_interval(correct - survivors, correct),
        broken=is_broken,
        by_attack=tuple(_by_attack(table, stages, n, seconds)),
        per_class=tuple(_per_class(clean, is_broken.numpy(), classes)),
        forwards=spent[0] + _total(table, "forwards"),
        backwards=spent[1] + _total(table, "backwards"),
        seconds=sum(seconds.values()),
        flags=flags,
    )
    if "proved" in clean.columns:
        proved = int(clean["proved"].sum())
        interval = clopper_pearson_interval(proved, n)
        found = replace(found, certified_accuracy=proved / n, certified_interval=interval)
    if task is not CLASSES:
        found = with_scores(found, table, stages, task)
    checks = tuple(free_checks(found.record(), table))
    return replace(found, checks=checks, verdict=provisional_verdict(checks))


def _by_attack(table: LedgerTable, stages: list[str], n: int, seconds: Mapping[str, float]) -> list[AttackSummary]:
    found, survivors = [], n
    for stage in stages:
        mine = table.select(table.of(stage))
        broken = len(mine.broken_ids)
        survivors -= broken
        cost = (_total(mine, "forwards"), _total(mine, "backwards"), seconds.get(stage, 0.0))
        found.append(AttackSummary(stage, len(mine), broken, survivors / n, *cost))
    return found[1:]


def _per_class(clean: LedgerTable, broken: Column, classes: tuple[str, ...]) -> list[ClassSummary]:
    found = []
    for label, name in enumerate(classes):
        mine = clean["label"] == label
        if count := int(mine.sum()):
            wrong, lost = int(clean["broken"][mine].sum()), int(broken[clean["id"][mine]].sum())
            found.append(ClassSummary(name, count, 1 - wrong / count, 1 - lost / count))
    return found


def _total(table: LedgerTable, name: str) -> int:
    return int(table[name].sum(dtype=np.int64))

"""Diagnosis of a mean score: the checks that make sense in any task, and a reason for each of the others.

evaluation of the task -> free checks of its ledger -> one step, more steps, no bound, a search without gradients -> verdict
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advreg import models, runtime
from advreg.attacks import AttackResult, apgd, fgsm, pgd, random_search
from advreg.diagnosis.result import Diagnosis
from advreg.errors import ConfigError
from advreg.evaluation.evaluate import evaluate
from advreg.evaluation.examples import first_examples
from advreg.evaluation.task_protocols import score_search
from advreg.results.checks import Check, grade_check, skip_check
from advreg.results.evaluation import Evaluation
from advreg.runs import RunFolder
from advreg.score_intervals import mean_difference_interval
from advreg.tasks import Task
from advreg.threat import ThreatModel, whole_box

if TYPE_CHECKING:
    from advreg.data.adapters import Data

GAIN = 0.01
"""Mean score that another attack may take off the figure before the figure is suspect."""

GAP = 0.06
"""Mean score beyond which the figure is wrong."""

_UNBOUNDED = 0.1  # share of the clean score that may be left without a bound
_ROWS = 64  # examples of the attacks that are costly
_QUERIES = 200

_FOR_CLASSES = {
    "binarisation": ("E", "it fits a two-class problem to the features of a classifier"),
    "transfer": ("A", "its surrogate is a classifier"),
    "margin-loss": ("B", "the margin is one of logits of classes; every objective of the task was attacked"),
    "eps-curve": ("A", "robustness_curve(task=) measures it"),
    "hard-label": ("A", "it searches the boundary of a predicted class"),
    "training-history": ("G", "the log of a training holds accuracies of classes"),
    "one-class": ("B", "there is no predicted class"),
    "chance": ("B", "the task defines no score of a constant output"),
}
"""Checks of classifiers: their group, and why another task has none."""


@dataclass(frozen=True, eq=False)
class _Question:
    """What the checks of a task share: model, examples, and the scores of the figure."""

    model: nn.Module
    x: Tensor
    y: Tensor
    threat: ThreatModel
    task: Task
    clean: Tensor
    worst: Tensor
    seed: int

    def rows(self) -> Tensor:
        """Return the rows of the costly attacks, the highest scores first: they have most to lose."""
        return self.worst.argsort(descending=True, stable=True)[:_ROWS]


def diagnose_task(
    model: nn.Module,
    data: Data,
    threat: ThreatModel,
    n: int,
    task: Task,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    adapt: bool = False,
) -> Diagnosis:
    """Grade whether the mean score of a task under attack can be trusted.

    The figure is that of the protocol ``quick``, which attacks every objective of the task; an evaluation in ``out`` is reused.

    Args:
        model: maps inputs ``(B, ...)`` to outputs ``(B, ...)``; eval mode.
        data: examples with targets of the task.
        threat: norm, eps and box.
        n: examples, from the first.
        task: what an output is worth.
        seed: seed of the figure; the checks draw with ``seed + 1``.
        out: run folder to read an evaluation from and to write ``diagnosis.json`` into.
        adapt: whether adaptive attacks were requested, which are for classes.

    Returns:
        A `Diagnosis`; checks that are for classes are skipped with a reason.

    Raises:
        ConfigError: adaptive attacks.
    """
    if adapt:
        raise ConfigError(f"adaptive attacks are for classes, the task is {task.name}; leave adapt out")
    began = time.perf_counter()
    examples = first_examples(data, n, threat, task=task)
    found = evaluate(model, (examples.x, examples.y), threat, task=task, seed=seed, out=out)
    question = _question(model, examples.x, examples.y, found, task)
    measured = [check(question) for check in (_one_step, _more_steps, _without_bound, _random_search, _black_box)]
    names = {check.name for check in measured}
    free = [check for check in found.checks if check.name not in names | set(_FOR_CLASSES)]
    skipped = [skip_check(name, group, f"for classes: {why}") for name, (group, why) in _FOR_CLASSES.items()]
    diagnosis = Diagnosis(
        threat=threat,
        claim=found.protocol,
        n=found.n,
        clean_accuracy=found.clean_accuracy,
        robust_accuracy=found.robust_accuracy,
        interval=found.interval,
        checks=tuple(sorted([*free, *measured, *skipped], key=lambda check: check.group)),
        facts={"model": models.describe(model), "seed": seed, "environment": runtime.environment(), "task": task.name},
        seconds=time.perf_counter() - began,
    )
    if out is not None:
        RunFolder.at(out).write_json("diagnosis.json", diagnosis.record())
    return diagnosis


def _question(model: nn.Module, x: Tensor, y: Tensor, found: Evaluation, task: Task) -> _Question:
    device = next((p.device for p in model.parameters()), x.device)
    x, y = x.to(device), y.to(device)
    with torch.no_grad():
        parts = zip(torch.split(x, 256), torch.split(y, 256), strict=True)
        clean = torch.cat([task.rate(model(part), targets) for part, targets in parts])
    assert found.scores is not None
    return _Question(model, x, y, found.threat, task, clean.double(), found.scores.to(device), found.seed + 1)


def _attacked(question: _Question, rows: Tensor, run: Callable[..., AttackResult], threat: ThreatModel) -> Tensor:
    """Return the scores that an attack leaves on these rows."""
    found = run(question.model, question.x[rows], question.y[rows], threat, task=question.task, seed=question.seed)
    return found.worth.double()


def _gain(
    name: str,
    group: str,
    by: str,
    question: _Question,
    rows: Tensor,
    scores: Tensor,
    *,
    cause: str = "masked gradients",
) -> Check:
    """Grade what another attack takes off the figure's scores on these rows, as a share of all examples."""
    before = question.worst[rows]
    after = before.minimum(scores)
    share = len(rows) / len(question.worst)
    lost = float((before - after).mean()) * share
    low, high = mean_difference_interval(after.tolist(), before.tolist(), question.seed)
    says = f"{by} takes {lost:.4f} off the mean score, on {len(rows)} of {len(question.worst)} examples"
    ends = (low * share, high * share)
    ids = rows[before - after > GAIN].tolist()
    return grade_check(name, group, cause, says, measured=lost, threshold=GAIN, limit=GAP, ends=ends, ids=ids)


def _one_step(question: _Question) -> Check:
    rows = torch.arange(len(question.x))
    run = _with_objective(fgsm, question.task)
    return _gain("one-step", "A", "one step", question, rows, _attacked(question, rows, run, question.threat))


def _more_steps(question: _Question) -> Check:
    rows = question.rows()
    run = _with_objective(apgd, question.task, steps=100, restarts=2)
    by = "Auto-PGD with 100 steps and 2 restarts"
    scores = _attacked(question, rows, run, question.threat)
    return _gain("steps", "B", by, question, rows, scores, cause="weak attack")


def _random_search(question: _Question) -> Check:
    rows = question.rows()
    scores = _attacked(question, rows, _with(random_search, queries=_QUERIES), question.threat)
    return _gain("random-search", "A", f"{_QUERIES} random points", question, rows, scores)


def _black_box(question: _Question) -> Check:
    rows = question.rows()
    scores = _attacked(question, rows, _with(score_search, queries=_QUERIES), question.threat)
    return _gain("black-box", "A", f"a search with {_QUERIES} queries", question, rows, scores)


def _without_bound(question: _Question) -> Check:
    """Grade the score that is left where the adversary may change everything."""
    rows = question.rows()
    free = whole_box(question.threat.box)
    run = _with_objective(pgd, question.task, steps=100, step_size=question.threat.width / 20)
    left, clean = float(_attacked(question, rows, run, free).mean()), float(question.clean[rows].mean())
    share = left / clean if clean else 0.0
    says = f"without a bound on the change, {share:.1%} of the clean score is left on {len(rows)} examples"
    return grade_check(
        "unbounded", "A", "masked gradients", says, measured=share, threshold=_UNBOUNDED, limit=5 * _UNBOUNDED
    )


def _with(attack: Callable[..., AttackResult], **options: object) -> Callable[..., AttackResult]:
    def run(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **more: object) -> AttackResult:
        return attack(model, x, y, threat, **options, **more)

    return run


def _with_objective(attack: Callable[..., AttackResult], task: Task, **options: object) -> Callable[..., AttackResult]:
    """Return the worst case of an attack over all objectives of a task."""

    def run(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **more: object) -> AttackResult:
        every = torch.arange(len(x), device=x.device)
        worst: AttackResult | None = None
        for objective in task.objectives.values():
            found = attack(model, x, y, threat, objective=objective, **options, **more)
            found = replace(found, loss=torch.zeros_like(found.loss))  # losses of two objectives cannot be compared
            worst = found if worst is None else worst.improved_by(found, every)
        assert worst is not None
        return worst

    return run

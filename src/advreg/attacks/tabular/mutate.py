"""Search by mutation: scores only, so that trees, remote models and whole numbers are reached too."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg import example_rng
from advreg.attacks.model import Model, bind_dtype, query_model
from advreg.attacks.result import AttackResult
from advreg.attacks.rows import mask_out
from advreg.attacks.scoreboard import Scoreboard
from advreg.attacks.search import QuerySpec, require_positive, search
from advreg.attacks.tabular.class_filter import only_class, reject_direction
from advreg.attacks.tabular.proposals import Proposals
from advreg.objectives import Objective
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel, broadcast_per_example

ROUND = 8
"""Proposals of each row in one batch of queries."""


def mutate(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    queries: int = 400,
    restarts: int = 1,
    objective: Objective | None = None,
    direction: int | None = None,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
    task: Task = CLASSES,
) -> AttackResult:
    """Attack by random changes of few features, each repaired to keep the rules; a change that raises the loss is kept.

    Rounds of 8 proposals a row: real features move by steps that shrink over the search, whole numbers jump to any allowed
    level or step, groups take a random member, and features return to their clean values, which frees budget. An example
    that survives costs ``1 + restarts (queries + 1)`` forwards and no backwards.

    Args:
        model: any function from inputs ``(B, ...)`` to scores ``(B, K)``; a module must be in eval mode.
        x: clean inputs ``(B, ...)`` in the box of ``threat`` that keep its rules.
        y: labels ``(B,)``.
        threat: norm, eps, scale, box and rules of the adversary.
        queries: number of proposals of each example and attempt.
        restarts: number of attempts, each on the examples that survive.
        objective: function of scores and labels to maximise; the task's nearness to broken, the margin for classes, if None.
        direction: the only class that is attacked, such as 1 for fraud that should pass as no fraud; None: all.
        early_stop: whether a broken example leaves the batch at once (same verdicts, fewer passes).
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random draws.
        batch_size: number of examples attacked at a time.
        task: what an output is worth; where scores fall by degrees, a point of lower score is kept, whatever its loss.

    Returns:
        An `AttackResult`, verified on the original model; every point keeps the rules.

    Raises:
        ModelError: train mode, or wrong output.
        DataError: inputs that do not fit the box, the labels or the rules.
        ConfigError: ``queries`` or ``restarts`` below 1, or a direction in another task than classification.

    Example:
        >>> model = torch.nn.Linear(3, 2).eval()
        >>> x, y = torch.full((2, 3), 0.5), torch.tensor([0, 1])
        >>> mutate(model, x, y, ThreatModel("l2", 1e-4), queries=16, early_stop=False).forwards
        36
    """
    require_positive(queries=queries, restarts=restarts)
    reject_direction(direction, task)
    spec = QuerySpec(bind_dtype(model, x), objective or task.nearness, task=task)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        return _run(spec, (x, y, threat, ids), queries, seed, restart, early_stop=early_stop)

    limited = only_class(attempt, direction, spec)
    return search(spec, x, y, threat, limited, restarts=restarts, ids=ids, early_stop=early_stop, batch_size=batch_size)


def _run(
    spec: QuerySpec,
    examples: tuple[Tensor, Tensor, ThreatModel, Tensor],
    queries: int,
    seed: int,
    restart: int,
    *,
    early_stop: bool,
) -> AttackResult:
    x, y, threat, ids = examples
    board = Scoreboard(spec, x, y, threat)
    rows = torch.arange(len(x), device=x.device)
    best, loss = x, torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    score = torch.full_like(loss, torch.inf)
    for first in range(0, queries, ROUND):
        count = min(ROUND, queries - first)
        part = threat.select(rows)
        moves = Proposals.of(part, x[rows])
        width = moves.width
        u = example_rng.uniform(ids[rows], (count, width), seed, _stream(restart, first))
        found, value, worth, fools = _best_of(spec, moves.propose(best, u, first / queries), x[rows], y[rows], part)
        board.cost[rows, 0] += count
        better = (worth < score) | ((worth == score) & (value > loss))
        best = torch.where(broadcast_per_example(better, best), found, best)
        loss, score = torch.where(better, value, loss), torch.where(better, worth, score)
        done = (better & fools).nonzero()[:, 0]
        if early_stop and len(done):
            confirmed = board.submit(rows[done], best[done])
            keep = mask_out(done[confirmed], len(rows)).nonzero()[:, 0]
            rows, best = rows[keep], best[keep]
            loss, score = loss[keep], score[keep]
        if not len(rows):
            return board.result()
    board.submit(rows, best)
    return board.result()


def _stream(restart: int, first: int) -> int:
    """Return the number of the draws of a round, apart from those of other restarts."""
    return (restart << 20) + first


@torch.no_grad()
def _best_of(
    spec: QuerySpec, proposals: Tensor, x: Tensor, y: Tensor, threat: ThreatModel
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each row's proposal ``(B, P, ...)`` of lowest score, then of highest loss, after repair.

    Beside it: its loss, its score (0 in tasks of right and broken examples, where the loss decides), whether it is broken.
    """
    size, count = proposals.shape[:2]
    each = torch.arange(size, device=x.device).repeat_interleave(count)
    part, near = threat.select(each), x[each]
    points = part.repair(part.project(proposals.flatten(0, 1), near), near)
    logits = query_model(spec.model, points, spec.dtype)
    value = spec.loss_at(logits, y[each]).to(x.dtype)
    score = spec.score(logits, y[each])
    fools = spec.is_broken(score)
    value = torch.where(fools & ~torch.isfinite(value), torch.inf, value).nan_to_num(-torch.inf, torch.inf, -torch.inf)
    worth = torch.zeros_like(value) if score.dtype is torch.bool else score.to(value.dtype)
    lowest = worth.view(size, count) == worth.view(size, count).amin(1, keepdim=True)
    top = value.view(size, count).where(lowest, -torch.inf).argmax(1)
    chosen = torch.arange(size, device=x.device) * count + top
    return points[chosen], value[chosen], worth[chosen], fools[chosen]

"""Annealed PGD: steps that shrink from eps to nothing by a cosine. Few passes find most of what long attacks find."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advreg.attacks.auto_pgd import top_other_classes
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.pgd import Start, initial_point
from advreg.attacks.result import AttackResult
from advreg.attacks.scoreboard import Scoreboard
from advreg.attacks.search import (
    AttackState,
    QuerySpec,
    Rule,
    example_of_row,
    keep_labels,
    require_positive,
    run_attempt,
    search,
)
from advreg.example_rng import Stream
from advreg.objectives import Objective, cross_entropy
from advreg.threat import ThreatModel

FILL = 64
"""Rows below which restarts are stacked: a step costs a third as much a row at 64 rows as at 8."""


def cosine_step(steps: int) -> Rule:
    """Step ``eps (1 + cos(pi k / steps)) / 2`` along the steepest direction at iteration ``k``, then project."""

    def rule(state: AttackState, k: int) -> AttackState:
        length = state.radii * (1 + math.cos(math.pi * k / steps)) / 2
        moved = state.adv + length * state.threat.steepest(state.grad, state.adv)
        return state.moved_to(moved)

    return rule


def cosine_pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 20,
    restarts: int = 1,
    targets: int = 0,
    start: Start = "uniform",
    objective: Objective = cross_entropy,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> AttackResult:
    """Attack by PGD whose step shrinks from eps to zero: it crosses the ball at once, and settles at the end.

    With ``targets``, each attempt goes for one rival class, those of highest clean logit in turn; the objective then takes
    labels with their rivals, such as `rival_margin`. An example that stands costs ``1 + attempts (steps + 2)`` forwards and
    ``attempts steps`` backwards, with ``max(targets, 1) restarts`` attempts.

    Args:
        model, x, y, threat, start, ids, seed, batch_size: as for `pgd`.
        steps: gradient steps of one attempt.
        restarts: rounds, each on the examples that still stand.
        targets: how many rival classes a round tries; 0 for an untargeted objective.
        objective: what to maximise.

    Returns:
        An `AttackResult`, judged by the original model.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> annealed(model, x, y, ThreatModel("linf", 1e-6), steps=5).backwards <= 2 * 5
        True

    Reference: the schedule of Ye et al., "Practical evaluation of adversarial robustness via adaptive auto attack", CVPR 2022.
    """
    require_positive(steps=steps)
    ask, rule = QuerySpec(bind_dtype(model, x), objective), cosine_step(steps)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: Stream) -> AttackResult:
        aimed = at_rival(y, restart, targets) if targets else y
        if aimed is None:
            return Scoreboard(ask, x, y, threat).result()
        origin = initial_point(start, x, threat, ids, seed, restart)
        return run_attempt(ask, x, aimed, threat, origin, rule, steps, early_stop=True, owner=example_of_row(restart))

    return search(
        ask, x, y, threat, attempt, restarts=max(targets, 1) * restarts,
        ids=ids, batch_size=batch_size, aim=top_other_classes(targets) if targets else keep_labels, fill=FILL,
    )  # fmt: skip


def at_rival(y: Tensor, restart: Stream, targets: int) -> Tensor | None:
    """Return labels with the rival of this restart, ``(B, 2)``; None where the model has no such class."""
    column = torch.as_tensor(1 + restart % targets, device=y.device).expand(len(y))
    if int(column.min()) >= y.shape[1]:
        return None
    return torch.cat([y[:, :1], y.gather(1, column.clamp_max(y.shape[1] - 1)[:, None])], 1)

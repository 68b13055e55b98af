"""The loop of every minimum-norm attack: look, remember the nearest point that fools, retire who is near enough, step.

    hunt    clean points judged -> attempts on what is not near enough yet -> nearest of all     (restarts, targets, chunks)
    chase   look -> observe -> rule -> look -> ... -> observe -> the judge                       (one attempt)

The goal of an example is a distance: eps in an evaluation, 0 where the distance itself is wanted. Who has a confirmed point
within the goal leaves. Rows never see each other, so they may leave without changing what the others do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advreg.attacks.inputs import read_batch, read_ids, reject_classes
from advreg.attacks.minimum_norm.fallback import CLIMB, RETURN, anywhere, climb_rule, return_rule
from advreg.attacks.minimum_norm.l0 import Ball, SparseThreat, box_diameter, with_radius
from advreg.attacks.minimum_norm.result import MinimalResult, concatenate_minimal
from advreg.attacks.minimum_norm.state import Look, MinimumNormState, Rule
from advreg.attacks.model import Model, query_model, widen
from advreg.attacks.rows import mask_out
from advreg.attacks.scoreboard import BaseScoreboard
from advreg.attacks.search import require_positive
from advreg.attacks.verification import (
    reject_device,
    reject_softmax,
    require_eval_mode,
    require_finite,
    verify_with_logits,
)
from advreg.errors import ThreatError
from advreg.objectives import fooled, labels_of, margin, ranked
from advreg.threat import ThreatModel, broadcast_per_example

_PUSHES = (1.001, 1.01, 1.03, 1.1, 1.3)
"""How far beyond a refused point to ask again: a fast target's boundary, or one of another rounding, lies a little off."""


@dataclass(frozen=True)
class SearchConfig:
    """What an attack is made of.

    Attributes:
        model: the network under attack, original or fast target; its original judges.
        looks: one attempt is made with each; several where several classes are aimed at, never more than there are others.
        rule: from one iterate to the next.
        steps: looks of one attempt.
        restarts: rounds of attempts, all but the first from a random start.
        targeted: whether ``y`` is the class the adversary wants.
        early_stop: whether an example leaves once it is within eps.
        first_only: whether an example leaves with its first success, however far.
        confidence: lead over the next class without which a look is no success.
        last_resort: a look to climb by, anywhere in the box, where no attempt found a point; None to leave it at that.
        seed: seed of the random starts.
    """

    model: Model
    looks: Sequence[Look]
    rule: Rule
    steps: int
    restarts: int = 1
    targeted: bool = False
    early_stop: bool = True
    first_only: bool = False
    confidence: float = 0.0
    last_resort: Look | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(steps=self.steps, restarts=self.restarts)

    def fooled(self, logits: Tensor, y: Tensor) -> Tensor:
        """Say which rows the logits get wrong (or as the adversary wants, if targeted), by enough."""
        return fooled(logits, y, self.targeted) & ~(self.lead(logits, y) < self.confidence)  # NaN has no lead

    def lead(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return by how much the logits fool, ``(B,)``; negative where they do not."""
        return -margin(logits, y) if self.targeted else margin(logits, y)


class MinimumNormScoreboard(BaseScoreboard):
    """The nearest points that the judge confirmed, and what was spent, example by example."""

    def __init__(self, plan: SearchConfig, x: Tensor, y: Tensor, ball: Ball) -> None:
        super().__init__(x, y)
        self.plan, self.ball = plan, ball
        self.nearest = x.clone()
        self.minimal = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)

    def submit(self, rows: Tensor, adv: Tensor) -> tuple[Tensor, Tensor]:
        """Ask the judge, write down what is nearer, and return which points fool, and the logits."""
        x, y, ball = self.x[rows], self.y[rows], self.ball.select(rows)
        anywhere = ThreatModel("linf", ball.width, ball.box)
        fools, logits = verify_with_logits(self.plan.model, x, adv, y, anywhere, self.plan.targeted)
        self.cost[rows, 0] += 1
        distance = ball.distance(adv, x)
        nearer = fools & (distance < self.minimal[rows])
        won = rows[nearer]
        self.nearest[won], self.minimal[won] = adv[nearer], distance[nearer]
        self.loss[won] = self._gain(logits, y)[nearer]
        return fools, logits

    def _gain(self, logits: Tensor, y: Tensor) -> Tensor:
        return ranked(self.plan.lead(logits, y)).to(self.loss.dtype)

    def goal(self) -> Tensor:
        """Return the distance at which each example may leave."""
        eps = torch.as_tensor(self.ball.eps, dtype=torch.float64, device=self.x.device).expand(len(self.x))
        if self.plan.first_only:
            return torch.full_like(eps, torch.inf)
        return eps if self.plan.early_stop else torch.zeros_like(eps)

    def observe(self, state: MinimumNormState, look: Look | None) -> MinimumNormState:
        """Return the state after a look at the iterate, or after a forward only: the nearest point that fooled, too."""
        if look is None:
            logits = query_model(self.plan.model, state.adv)
        else:
            logits, value, grad, backwards = look(state)
            state = replace(state, value=value, grad=grad)
            self.cost[state.rows, 1] += backwards
        self.cost[state.rows, 0] += 1
        distance = state.ball.distance(state.adv, state.x)
        fooled = self.plan.fooled(logits, state.y)
        nearer = fooled & (distance < state.best_distance)
        return replace(
            state,
            distance=distance,
            fooled=fooled,
            best=torch.where(broadcast_per_example(nearer, state.x), state.adv, state.best),
            best_distance=torch.where(nearer, distance, state.best_distance),
        )

    def retire(self, state: MinimumNormState) -> MinimumNormState:
        """Judge the rows that seem within their goal; those confirmed leave, the others forget the point and go on."""
        reached = (torch.isfinite(state.best_distance) & (state.best_distance <= state.goal)).nonzero()[:, 0]
        if not len(reached):
            return state
        confirmed, _ = self.submit(state.rows[reached], state.best[reached])
        keep = mask_out(reached[confirmed], len(state.rows))
        forgotten = state.best_distance.clone()
        forgotten[reached] = torch.inf
        return replace(state, best_distance=forgotten).select(keep.nonzero()[:, 0])

    def settle(self, state: MinimumNormState) -> None:
        """Judge what was nearest; where it is refused, ask again a little beyond it."""
        nearer = torch.isfinite(state.best_distance) & (state.best_distance < self.minimal[state.rows])
        left = state.select(nearer.nonzero()[:, 0])
        point = left.best
        for push in _PUSHES:
            if not len(left.rows):
                return
            confirmed, _ = self.submit(left.rows, point)
            left = left.select((~confirmed).nonzero()[:, 0])
            point = (left.x + push * (left.best - left.x)).clamp(*left.ball.box)

    def result(self, clean: Tensor) -> MinimalResult:
        """Return what was found: the nearest points, and inside the threat model themselves or their projections."""
        eps = torch.as_tensor(self.ball.eps, dtype=torch.float64, device=self.x.device).expand(len(self.x))
        x_adv, loss = self.x.clone(), self._gain(clean, self.y)
        beyond = (torch.isfinite(self.minimal) & (self.minimal > eps) & (eps > 0)).nonzero()[:, 0]
        if len(beyond):
            x_adv[beyond] = self.ball.select(beyond).project(self.nearest[beyond], self.x[beyond])
            loss[beyond] = self._gain(self.submit(beyond, x_adv[beyond])[1], self.y[beyond])
        broken = self.minimal <= eps
        x_adv[broken], loss[broken] = self.nearest[broken], self.loss[broken]
        distance = self.ball.distance(x_adv, self.x).to(self.x.dtype)
        return MinimalResult(x_adv, broken, distance, loss, self.cost, self.nearest, self.minimal)


def require_norm(attack: str, ball: Ball, *allowed: str) -> None:
    """Raise unless the attack searches in the ball's norm.

    Raises:
        ThreatError: it does not.
    """
    if ball.norm not in allowed:
        raise ThreatError(f"{attack} searches in {', '.join(allowed)}; the threat is {ball.norm}: use another attack")


def run_attempt(
    board: MinimumNormScoreboard, state: MinimumNormState, look: Look | None, rule: Rule, steps: int
) -> None:
    """Run one attempt: ``steps`` looks, a forward at the last iterate, and the judge's at the nearest point if there is one."""
    for k in range(steps + 1):
        seeing = k < steps
        state = board.observe(state, look if seeing else None)
        if state.x.device.type == "cpu" or k % 10 == 9:  # looking waits for an accelerator: seldom there
            state = board.retire(state)
            if not len(state.rows):
                return
        if seeing:
            state = rule(state, k)
    board.settle(state)


def search_minimum_norm(
    plan: SearchConfig, x: Tensor, y: Tensor, ball: Ball, *, ids: Tensor | None = None, batch_size: int = 512
) -> MinimalResult:
    """Judge the clean points, then attempt again and again on what is not near enough yet.

    Args:
        plan: the attack.
        x: clean inputs ``(B, ...)`` in the ball's box.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the wanted classes if targeted.
        ball: norm, box, and the radius within which a success counts; 0 where only the distance is wanted.
        ids: example ids ``(B,)`` on which the random draws depend; 0 to B-1 where not given.
        batch_size: examples under attack at a time.

    Returns:
        A `MinimalResult`: the nearest of all attempts.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: shapes that do not fit, values outside the box or not finite.
        ConfigError: steps or restarts below 1.
    """
    require_eval_mode(plan.model)
    x, y = read_batch(x, y, ball)
    reject_device(plan.model, x)
    x, ids = widen(x.detach()), read_ids(ids, x)
    parts = []
    with torch.inference_mode(False), torch.no_grad():  # whatever the caller is in: only looks make graphs
        for rows in torch.split(torch.arange(len(x), device=x.device), batch_size):
            board = MinimumNormScoreboard(plan, x[rows], labels_of(y[rows]), ball.select(rows))
            parts.append(_search_chunk(board, y[rows], ids[rows]))
    return concatenate_minimal(parts)


def _search_chunk(board: MinimumNormScoreboard, y: Tensor, ids: Tensor) -> MinimalResult:
    plan = board.plan
    _, clean = board.submit(torch.arange(len(ids), device=ids.device), board.x)
    reject_classes(y, clean.shape[1])
    require_finite(clean)
    reject_softmax(plan.model, board.x, clean, board.ball.box)
    goal = board.goal()
    for restart in range(plan.restarts):
        for number, look in enumerate(plan.looks[: clean.shape[1] - 1]):
            near = torch.isfinite(board.minimal) & (board.minimal <= goal)
            rows = (~near).nonzero()[:, 0]
            if len(rows):
                stream = restart * len(plan.looks) + number
                adv = board.x[rows] if restart == 0 else _scattered(board, rows, ids[rows], stream)
                run_attempt(board, _begin(board, rows, clean, goal, adv), look, plan.rule, plan.steps)
    if plan.last_resort is not None:
        _rescue(board, ids, clean, goal, plan.last_resort)
    return board.result(clean)


def _rescue(board: MinimumNormScoreboard, ids: Tensor, clean: Tensor, goal: Tensor, look: Look) -> None:
    """Climb from a random point of the box where no point is known, come back half-way by half-way, then attempt again."""
    plan, x, ball = board.plan, board.x, board.ball
    rows = (~torch.isfinite(board.minimal)).nonzero()[:, 0]
    if not len(rows):
        return
    start, first = anywhere(x[rows], ball.box, ids[rows], plan.seed), torch.full_like(goal, torch.inf)
    run_attempt(board, _begin(board, rows, clean, first, start), look, climb_rule(CLIMB), CLIMB)
    goal = torch.where(torch.isfinite(goal), goal, 0.0)  # a climb's point is no result of DeepFool's
    rows = rows[torch.isfinite(board.minimal[rows]) & (board.minimal[rows] > goal[rows])]
    if len(rows) and not isinstance(ball, SparseThreat):  # in l0 all points of a line are equally far
        far = board.nearest.clone()
        half = _begin(board, rows, clean, goal, (x[rows] + far[rows]) / 2)
        run_attempt(board, half, None, return_rule(far), RETURN - 1)
    rows = rows[board.minimal[rows] > goal[rows]]
    if len(rows) and not plan.first_only:
        again = _begin(board, rows, clean, goal, board.nearest[rows])
        run_attempt(board, again, plan.looks[0], plan.rule, plan.steps)


def _begin(board: MinimumNormScoreboard, rows: Tensor, clean: Tensor, goal: Tensor, adv: Tensor) -> MinimumNormState:
    x, ball = board.x[rows], board.ball.select(rows)
    no, zero = torch.zeros_like(rows, dtype=torch.bool), torch.zeros_like(x)
    far = torch.full_like(goal[rows], torch.inf)
    value = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    return MinimumNormState(rows, x, board.y[rows], clean[rows], goal[rows], ball, adv, far, no, value, zero, x, far)


def _scattered(board: MinimumNormScoreboard, rows: Tensor, ids: Tensor, stream: int) -> Tensor:
    """Return a random start: in half the smaller ball of eps and the nearest point, anywhere in the box if neither is known."""
    x, ball = board.x[rows], board.ball.select(rows)
    eps = torch.as_tensor(ball.eps, dtype=torch.float64, device=x.device).expand(len(x))
    known = board.minimal[rows].minimum(torch.where(eps > 0, eps, torch.inf))
    radius = torch.where(torch.isfinite(known), known / 2, box_diameter(ball, x))
    return with_radius(ball, radius, x).random_start(x, ids, board.plan.seed, stream)

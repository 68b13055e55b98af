"""The search loop of every minimum-norm attack: query, keep the nearest misclassified point, take a step.

    search_minimum_norm   clean points verified -> attempts on rows not near enough -> nearest of all attempts
    run_attempt           query -> observe -> rule -> query -> ... -> observe -> verification

The goal of an example is a distance: eps in an evaluation, 0 if the distance itself is measured. Rows with a confirmed
point within their goal leave. Rows are independent of each other, so they may leave without a change to the results of the
others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advreg.attacks.input_limits import require_alike_features
from advreg.attacks.inputs import read_batch, read_ids
from advreg.attacks.minimum_norm.fallback import (
    ASCENT_STEPS,
    RETURN_STEPS,
    ascent_rule,
    random_point,
    return_rule,
)
from advreg.attacks.minimum_norm.l0 import Ball, SparseThreat, box_diameter, with_radius
from advreg.attacks.minimum_norm.result import MinimalResult, concatenate_minimal
from advreg.attacks.minimum_norm.state import Linearise, MinimumNormState, Rule
from advreg.attacks.model import Model, query_model, widen
from advreg.attacks.outputs import reject_classes
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
from advreg.eps_and_box import eps_like
from advreg.errors import ThreatError
from advreg.objectives import fooled, labels_of, margin, replace_nan
from advreg.threat import broadcast_per_example, whole_box

_OVERSHOOTS = (1.001, 1.01, 1.03, 1.1, 1.3)
"""Factors beyond an unconfirmed point to verify: the boundary of a fast copy, or of other rounding, lies a little off."""


@dataclass(frozen=True)
class SearchConfig:
    """What defines an attack.

    Attributes:
        model: the attacked model, original or fast copy; the original verifies.
        linearise: one attempt is made with each; several if several classes are attacked, at most K-1.
        rule: from one iterate to the next.
        steps: queries with gradient in one attempt.
        restarts: rounds of attempts, all but the first from a random start.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether an example leaves once it is within eps.
        first_only: whether an example leaves with its first success, however far.
        confidence: lead over the next class that a misclassified iterate must have to count.
        last_resort: a linearisation for an ascent anywhere in the box if no attempt found a point; None for no such ascent.
        seed: seed of the random starts.
    """

    model: Model
    linearise: Sequence[Linearise]
    rule: Rule
    steps: int
    restarts: int = 1
    targeted: bool = False
    early_stop: bool = True
    first_only: bool = False
    confidence: float = 0.0
    last_resort: Linearise | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(steps=self.steps, restarts=self.restarts)

    def fooled(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return whether the logits are wrong (or the target class wins, if targeted) by the confidence, ``(B,)``."""
        return fooled(logits, y, self.targeted) & ~(self.lead(logits, y) < self.confidence)  # a NaN lead counts

    def lead(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the margin by which the logits are wrong, ``(B,)``; negative if they are right."""
        return -margin(logits, y) if self.targeted else margin(logits, y)


class MinimumNormScoreboard(BaseScoreboard):
    """The nearest confirmed points, and the cost of each example.

    Attributes:
        closest_adv: the nearest confirmed point, ``x`` before the first: ``(B, ...)``.
        min_distance: its distance in float64, inf before the first: ``(B,)``.
    """

    def __init__(self, plan: SearchConfig, x: Tensor, y: Tensor, ball: Ball) -> None:
        super().__init__(x, y)
        self.plan, self.ball = plan, ball
        self.closest_adv = x.clone()
        self.min_distance = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)

    def submit(self, rows: Tensor, adv: Tensor) -> tuple[Tensor, Tensor]:
        """Verify points of these rows, record the nearer ones, and return which are misclassified and the logits."""
        x, y = self.x[rows], self.y[rows]
        ball = self.ball.select(rows)
        fools, logits = verify_with_logits(self.plan.model, x, adv, y, whole_box(ball.box), self.plan.targeted)
        self.cost[rows, 0] += 1
        distance = ball.distance(adv, x)
        nearer = fools & (distance < self.min_distance[rows])
        improved = rows[nearer]
        self.closest_adv[improved], self.min_distance[improved] = adv[nearer], distance[nearer]
        self.loss[improved] = self._loss_at(logits, y)[nearer]
        return fools, logits

    def _loss_at(self, logits: Tensor, y: Tensor) -> Tensor:
        return replace_nan(self.plan.lead(logits, y)).to(self.loss.dtype)

    def goal(self) -> Tensor:
        """Return the distance at which each example may leave, ``(B,)``."""
        eps = eps_like(self.ball.eps, self.x, torch.float64).expand(len(self.x))
        if self.plan.first_only:
            return torch.full_like(eps, torch.inf)
        return eps if self.plan.early_stop else torch.zeros_like(eps)

    def observe(self, state: MinimumNormState, linearise: Linearise | None) -> MinimumNormState:
        """Return the state after a query at the iterate, with the nearest misclassified point so far."""
        if linearise is None:
            logits = query_model(self.plan.model, state.adv)
        else:
            logits, value, grad, backwards = linearise(state)
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
        """Verify the rows that seem within their goal; confirmed rows leave, the others drop that point."""
        reached = (torch.isfinite(state.best_distance) & (state.best_distance <= state.goal)).nonzero()[:, 0]
        if not len(reached):
            return state
        confirmed, _ = self.submit(state.rows[reached], state.best[reached])
        keep = mask_out(reached[confirmed], len(state.rows))
        reset = state.best_distance.clone()
        reset[reached] = torch.inf
        return replace(state, best_distance=reset).select(keep.nonzero()[:, 0])

    def finalize(self, state: MinimumNormState) -> None:
        """Verify the nearest points; an unconfirmed one is verified again a little beyond."""
        nearer = torch.isfinite(state.best_distance) & (state.best_distance < self.min_distance[state.rows])
        left = state.select(nearer.nonzero()[:, 0])
        point = left.best
        for factor in _OVERSHOOTS:
            if not len(left.rows):
                return
            confirmed, _ = self.submit(left.rows, point)
            left = left.select((~confirmed).nonzero()[:, 0])
            point = (left.x + factor * (left.best - left.x)).clamp(*left.ball.box)

    def result(self, clean: Tensor) -> MinimalResult:
        """Return the result: the nearest points, and inside the threat model these points or their projections.

        Args:
            clean: logits of the clean inputs ``(B, K)``.
        """
        eps = eps_like(self.ball.eps, self.x, torch.float64).expand(len(self.x))
        x_adv, loss = self.x.clone(), self._loss_at(clean, self.y)
        beyond = (torch.isfinite(self.min_distance) & (self.min_distance > eps) & (eps > 0)).nonzero()[:, 0]
        if len(beyond):
            x_adv[beyond] = self.ball.select(beyond).project(self.closest_adv[beyond], self.x[beyond])
            loss[beyond] = self._loss_at(self.submit(beyond, x_adv[beyond])[1], self.y[beyond])
        broken = self.min_distance <= eps
        x_adv[broken], loss[broken] = self.closest_adv[broken], self.loss[broken]
        distance = self.ball.distance(x_adv, self.x).to(self.x.dtype)
        return MinimalResult(x_adv, broken, distance, loss, self.cost, self.closest_adv, self.min_distance)


def require_norm(attack: str, ball: Ball, *allowed: str) -> None:
    """Raise unless the attack works in the norm of the ball.

    Args:
        attack: name of the attack, for the message.
        ball: the given norm.
        allowed: norms of the attack.

    Raises:
        ThreatError: another norm than the allowed ones.
    """
    if ball.norm not in allowed:
        raise ThreatError(f"{attack} searches in {', '.join(allowed)}; the threat is {ball.norm}: use another attack")


def run_attempt(
    board: MinimumNormScoreboard, state: MinimumNormState, linearise: Linearise | None, rule: Rule, steps: int
) -> None:
    """Run one attempt: ``steps`` queries with gradient, one at the last iterate, and verification of the nearest point.

    Args:
        board: records points and cost.
        state: the rows under attack.
        linearise: the query of each step; None for queries without gradient.
        rule: from one iterate to the next.
        steps: number of steps.
    """
    for k in range(steps + 1):
        gradient = k < steps
        state = board.observe(state, linearise if gradient else None)
        if state.x.device.type == "cpu" or k % 10 == 9:  # the check synchronises an accelerator: seldom there
            state = board.retire(state)
            if not len(state.rows):
                return
        if gradient:
            state = rule(state, k)
    board.finalize(state)


def search_minimum_norm(
    plan: SearchConfig, x: Tensor, y: Tensor, ball: Ball, *, ids: Tensor | None = None, batch_size: int = 512
) -> MinimalResult:
    """Verify the clean points, then run attempts on the examples that are not near enough yet.

    Args:
        plan: the attack.
        x: clean inputs ``(B, ...)`` in the box of ``ball``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if targeted.
        ball: norm, box, and the eps within which a success counts; 0 to measure the distance only.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        batch_size: number of examples attacked at a time.

    Returns:
        A `MinimalResult`: the nearest points of all attempts.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ThreatError: limits of single features.

    Example:
        >>> from advreg.attacks.minimum_norm.ddn import ddn_rule
        >>> from advreg.attacks.minimum_norm.linearisation import linearise_objective
        >>> from advreg.threat import ThreatModel
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> plan = SearchConfig(model, [linearise_objective(model, margin)], ddn_rule(50, 1.0, 0.05, 1.0), steps=50)
        >>> found = search_minimum_norm(plan, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ThreatModel("l2", 0.0))
        >>> round(float(found.min_distance), 2)
        0.14
    """
    require_eval_mode(plan.model)
    require_alike_features("a minimum-norm attack", ball)
    x, y = read_batch(x, y, ball)
    reject_device(plan.model, x)
    x, ids = widen(x.detach()), read_ids(ids, x)
    parts = []
    with torch.inference_mode(False), torch.no_grad():  # in any mode of the caller, only queries build graphs
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
        for number, linearise in enumerate(plan.linearise[: clean.shape[1] - 1]):
            near = torch.isfinite(board.min_distance) & (board.min_distance <= goal)
            rows = (~near).nonzero()[:, 0]
            if len(rows):
                stream = restart * len(plan.linearise) + number
                adv = board.x[rows] if restart == 0 else _random_start(board, rows, ids[rows], stream)
                run_attempt(board, _initial_state(board, rows, clean, goal, adv), linearise, plan.rule, plan.steps)
    if plan.last_resort is not None:
        _fall_back(board, ids, clean, goal, plan.last_resort)
    return board.result(clean)


def _fall_back(board: MinimumNormScoreboard, ids: Tensor, clean: Tensor, goal: Tensor, linearise: Linearise) -> None:
    """Search from a random point of the box where none is known, return along the line, then attack again."""
    plan, x = board.plan, board.x
    ball = board.ball
    rows = (~torch.isfinite(board.min_distance)).nonzero()[:, 0]
    if not len(rows):
        return
    start, first = random_point(x[rows], ball.box, ids[rows], plan.seed), torch.full_like(goal, torch.inf)
    run_attempt(
        board, _initial_state(board, rows, clean, first, start), linearise, ascent_rule(ASCENT_STEPS), ASCENT_STEPS
    )
    goal = torch.where(torch.isfinite(goal), goal, 0.0)  # DeepFool must improve the point of the ascent
    rows = rows[torch.isfinite(board.min_distance[rows]) & (board.min_distance[rows] > goal[rows])]
    if len(rows) and not isinstance(ball, SparseThreat):  # in l0 all points of a line are equally far
        far = board.closest_adv.clone()
        half = _initial_state(board, rows, clean, goal, (x[rows] + far[rows]) / 2)
        run_attempt(board, half, None, return_rule(far), RETURN_STEPS - 1)
    rows = rows[board.min_distance[rows] > goal[rows]]
    if len(rows) and not plan.first_only:
        again = _initial_state(board, rows, clean, goal, board.closest_adv[rows])
        run_attempt(board, again, plan.linearise[0], plan.rule, plan.steps)


def _initial_state(
    board: MinimumNormScoreboard, rows: Tensor, clean: Tensor, goal: Tensor, adv: Tensor
) -> MinimumNormState:
    x, ball = board.x[rows], board.ball.select(rows)
    no, zero = torch.zeros_like(rows, dtype=torch.bool), torch.zeros_like(x)
    far = torch.full_like(goal[rows], torch.inf)
    value = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    return MinimumNormState(rows, x, board.y[rows], clean[rows], goal[rows], ball, adv, far, no, value, zero, x, far)


def _random_start(board: MinimumNormScoreboard, rows: Tensor, ids: Tensor, stream: int) -> Tensor:
    """Return a random start in half the smaller ball of eps and the nearest point, or in the box if neither is known."""
    x, ball = board.x[rows], board.ball.select(rows)
    eps = eps_like(ball.eps, x, torch.float64).expand(len(x))
    known = board.min_distance[rows].minimum(torch.where(eps > 0, eps, torch.inf))
    radius = torch.where(torch.isfinite(known), known / 2, box_diameter(ball, x))
    return with_radius(ball, radius, x).random_start(x, ids, board.plan.seed, stream)

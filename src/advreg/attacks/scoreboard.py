"""What an attack has achieved and spent so far: verified points and the passes of each example."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advreg.attacks.result import AttackResult
from advreg.attacks.rows import mask_out
from advreg.attacks.verification import score_points
from advreg.objectives import replace_nan
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.attacks.search import AttackState, QuerySpec


class BaseScoreboard:
    """Loss and cost of each example of a batch.

    Attributes:
        x, y: clean inputs ``(B, ...)`` and labels.
        loss: loss at the best verified point, -inf before the first: ``(B,)``.
        cost: forwards and backwards of each example, ``(B, 2)`` integers.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.loss = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        self.cost = torch.zeros(len(x), 2, dtype=torch.int64, device=x.device)


class Scoreboard(BaseScoreboard):
    """Verified points of an attack inside a threat model.

    Rows with equal entries in ``owner`` are attempts on one example: when one is confirmed, all of them leave.

    Attributes:
        x_adv: the last verified point, ``x`` before the first: ``(B, ...)``.
        broken: whether verification confirmed it: ``(B,)``.
        score: score of the verified point ``(B,)``; None for tasks with booleans, where ``broken`` holds it.
        queries: forwards and backwards of every row that is still under attack.
    """

    def __init__(self, spec: QuerySpec, x: Tensor, y: Tensor, threat: ThreatModel, owner: Tensor | None = None) -> None:
        super().__init__(x, y)
        self.spec, self.threat = spec, threat
        self.owner = owner
        self.x_adv = x.clone()
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.score: Tensor | None = None
        self.queries = (0, 0)

    def count(self, *, backward: bool) -> None:
        """Count one query of every row that is still under attack."""
        forwards, backwards = self.queries
        self.queries = (forwards + self.spec.eot, backwards + self.spec.eot * backward)

    def charge(self, rows: Tensor) -> None:
        """Add all queries so far to the cost of these rows, which leave now."""
        for column, count in enumerate(self.queries):  # numbers, because a new tensor would wait for a GPU
            self.cost[rows, column] += count

    def submit(self, rows: Tensor, adv: Tensor) -> Tensor:
        """Verify points of these rows on the original model, record them, and return which were confirmed."""
        threat = self.threat.select(rows)
        score, outputs = score_points(
            self.spec.model, self.x[rows], adv, self.y[rows], threat, self.spec.task, targeted=self.spec.targeted
        )
        return self.record(rows, adv, score, outputs)

    def keep_score(self, rows: Tensor, score: Tensor) -> None:
        """Keep the scores ``(R,)`` of these rows; booleans are kept by ``broken``."""
        if score.dtype is torch.bool:
            return
        if self.score is None:
            self.score = torch.ones(len(self.x), dtype=score.dtype, device=score.device)
        self.score[rows] = score

    def record(self, rows: Tensor, adv: Tensor, score: Tensor, outputs: Tensor) -> Tensor:
        """Record verified points of these rows, and the one forward that verified them.

        Args:
            rows: positions in the batch ``(R,)``.
            adv: the points ``(R, ...)``.
            score: score of each ``(R,)``, 1 outside the threat model.
            outputs: outputs of the original model there ``(R, ...)``.

        Returns:
            Whether each is broken, ``(R,)``.

        Example:
            >>> from advreg.attacks.search import QuerySpec
            >>> from advreg.objectives import margin
            >>> x, y = torch.zeros(1, 2), torch.tensor([0])
            >>> board = Scoreboard(QuerySpec(torch.nn.Identity(), margin), x, y, ThreatModel("linf", 1.0))
            >>> board.record(torch.tensor([0]), torch.tensor([[0.0, 1.0]]), torch.tensor([False]), torch.tensor([[0.0, 1.0]]))
            tensor([True])
            >>> board.broken.tolist(), board.loss.tolist()
            ([True], [1.0])
        """
        self.cost[rows, 0] += 1
        broken = self.spec.is_broken(score)
        self.x_adv[rows], self.broken[rows] = adv, broken
        self.keep_score(rows, score)
        self.loss[rows] = replace_nan(self.spec.loss_at(outputs, self.y[rows])).to(self.loss.dtype)
        return broken

    def retire(self, state: AttackState) -> AttackState:
        """Verify the rows that fooled the model; confirmed rows leave, the others drop that point and continue."""
        broken = self.spec.is_broken(state.best_score)
        proposed = broken.nonzero()[:, 0]
        if not len(proposed):
            return state
        confirmed = self.submit(state.rows[proposed], state.best[proposed])
        keep = mask_out(proposed[confirmed], len(state.rows))
        if self.owner is not None:
            done = self.owner[state.rows[proposed[confirmed]]]
            keep &= ~torch.isin(self.owner[state.rows], done)
        self.charge(state.rows[~keep])
        reset = replace(state, best_score=state.best_score.masked_fill(broken, 1))
        return reset.select(keep.nonzero()[:, 0])

    def result(self) -> AttackResult:
        """Return the recorded points as a result."""
        distance = self.threat.distance(self.x_adv, self.x).to(self.x.dtype)
        return AttackResult(self.x_adv, self.broken, distance, self.loss, self.cost, score=self.score)

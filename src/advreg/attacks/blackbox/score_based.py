"""The loop of score-based attacks: propose a point, query its score, keep it if the loss rose.

Examples are independent of each other: a row leaves as soon as verification confirms its point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from advreg import example_rng
from advreg.attacks.model import query_model
from advreg.attacks.result import AttackResult
from advreg.attacks.rows import RowState, mask_out
from advreg.attacks.scoreboard import Scoreboard
from advreg.attacks.search import QuerySpec
from advreg.threat import ThreatModel, broadcast_per_example

_BLOCK = 32
"""Number of queries with random numbers from one draw; a draw costs about the same for one as for many."""
_LANE = 1 << 20
"""Number of random streams reserved for one restart, more than any number of queries."""


@dataclass(frozen=True)
class QueryState(RowState):
    """One row for each example still under attack.

    Attributes:
        rows: position of each row in the batch.
        ids: example ids, on which the random draws depend.
        x, y: clean inputs and labels.
        threat: the threat model of these rows.
        adv: the point proposed for the next query.
        best, loss: the best point queried so far and its loss.
        found: whether ``best`` fools the queried model and waits for verification.
        memory: tensors ``(B, ...)`` that the proposal keeps between queries.
    """

    rows: Tensor
    ids: Tensor
    x: Tensor
    y: Tensor
    threat: ThreatModel
    adv: Tensor
    best: Tensor
    loss: Tensor
    found: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)

    def remember(self, **tensors: Tensor) -> QueryState:
        """Return the same rows with more tensors in ``memory``."""
        return replace(self, memory={**self.memory, **tensors})


Proposal = Callable[[QueryState, int], QueryState]
"""``(state, query) -> state`` with the next point to query in ``adv``: where attacks differ."""


def run_score_based(
    spec: QuerySpec,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    ids: Tensor,
    propose: Proposal,
    *,
    queries: int,
    early_stop: bool,
    price: int = 1,
) -> AttackResult:
    """Run one attempt: ``queries * price`` forwards for a survivor, and one verification of the best point.

    Args:
        spec: model and objective.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        ids: example ids ``(B,)``, on which the draws of the proposal depend.
        propose: returns the state with the next point to query.
        queries: number of proposals.
        early_stop: whether a broken example leaves at once.
        price: forwards of one proposal and its query, if a proposal queries the model itself.

    Returns:
        An `AttackResult`, verified on the original model.

    Example:
        >>> from advreg.objectives import margin
        >>> model, x, y = torch.nn.Linear(4, 3).eval(), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> spec, threat = QuerySpec(model, margin), ThreatModel("linf", 0.1)
        >>> def propose(state, query):
        ...     return replace(state, adv=state.threat.random_start(state.x, state.ids, seed=0, stream=query))
        >>> run_score_based(spec, x, y, threat, torch.arange(2), propose, queries=3, early_stop=False).cost[:, 0].tolist()
        [4, 4]
    """
    board = Scoreboard(spec, x, y, threat)
    low = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    rows, no = torch.arange(len(x), device=x.device), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    state = QueryState(rows, ids, x, y, threat, x, x, low, no)
    for k in range(queries):
        state = propose(state, k)
        board.cost[state.rows, 0] += price
        state = _query(spec, state, freeze_fooled=early_stop)
        if early_stop and (k + 1) % _check_interval(x.device) == 0:
            state = _retire(board, state)
            if not len(state.rows):
                return board.result()
    board.submit(state.rows, state.best)
    return board.result()


def _check_interval(device: torch.device) -> int:
    """Return after how many queries to check for finished rows; less often where the check synchronises a GPU."""
    return 1 if device.type == "cpu" else 10


@torch.no_grad()
def _query(spec: QuerySpec, state: QueryState, *, freeze_fooled: bool) -> QueryState:
    """Query, and keep the points of higher loss; with ``freeze_fooled`` a row that fools the model keeps its point."""
    point = state.threat.repair(state.adv, state.x)
    logits = query_model(spec.model, point, spec.dtype)
    fools, loss = spec.fooled(logits, state.y), spec.loss_at(logits, state.y).to(state.loss.dtype)
    loss = torch.where(fools & ~torch.isfinite(loss), torch.inf, loss)  # a NaN output counts as the highest loss
    better = (loss > state.loss) & ~state.found  # False for NaN
    return replace(
        state,
        best=torch.where(broadcast_per_example(better, state.x), point, state.best),
        loss=torch.where(better, loss, state.loss),
        found=state.found | (better & fools) if freeze_fooled else state.found,
    )


def _retire(board: Scoreboard, state: QueryState) -> QueryState:
    """Verify the rows that fooled the model; confirmed rows leave, the others continue from their point.

    A NaN output of a fast copy alone is not confirmed; any other point counts as better afterwards.
    """
    proposed = state.found.nonzero()[:, 0]
    if not len(proposed):
        return state
    confirmed = board.submit(state.rows[proposed], state.best[proposed])
    keep = mask_out(proposed[confirmed], len(state.rows))
    loss = state.loss.masked_fill(state.loss == torch.inf, -torch.inf)
    return replace(state, loss=loss, found=torch.zeros_like(state.found)).select(keep.nonzero()[:, 0])


def draw_uniform(state: QueryState, query: int, width: int, seed: int, restart: int) -> QueryState:
    """Return the state with the uniform numbers of a query, ``(B, width)``, in ``memory["now"]``.

    Args:
        state: the rows under attack.
        query: number of the query, from 0.
        width: how many numbers to draw for each example.
        seed: seed of the random draws.
        restart: number of the restart.

    Returns:
        The state with the numbers of this query in its memory.

    Example:
        >>> ids, x, low = torch.arange(2), torch.zeros(2, 3), torch.zeros(2)
        >>> state = QueryState(ids, ids, x, ids, ThreatModel("linf", 0.1), x, x, low, low.bool())
        >>> draw_uniform(state, query=0, width=5, seed=0, restart=0).memory["now"].shape
        torch.Size([2, 5])
    """
    if query % _BLOCK == 0:
        stream = restart * _LANE + query // _BLOCK
        draws = example_rng.uniform(state.ids, (_BLOCK, width), seed, stream)
        state = state.remember(draws=draws)
    return state.remember(now=state.memory["draws"][:, query % _BLOCK])

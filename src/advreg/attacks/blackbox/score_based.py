"""The loop of attacks that see scores only: propose a point, ask for its score, keep it if the score rose.

Examples never see each other: a row leaves as soon as the judge confirms its point, and the others do not notice.
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

_BLOCK = 32  # queries whose random numbers are drawn at once: a call costs the same for one as for many
_LANE = 1 << 20  # streams kept for one restart: more than anybody's queries


@dataclass(frozen=True)
class QueryState(RowState):
    """One row for each example still under attack; everything in it can be selected by rows.

    Attributes:
        rows: position of each row in the batch.
        ids: example ids, to which the random draws belong.
        x, y: clean inputs and labels.
        threat: the threat model of these rows.
        adv: the point proposed for the next query.
        best, loss: the best point asked so far and its loss.
        found: whether ``best`` fools the model that was asked, and waits for the judge.
        memory: whatever the proposal wants to remember, tensors ``(B, ...)``.
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
        """Return the same rows with more to remember."""
        return replace(self, memory={**self.memory, **tensors})


Proposal = Callable[[QueryState, int], QueryState]
"""``(state, query) -> state`` with the next point to ask in ``adv``: the heart of an attack on scores."""


def run_score_based(
    ask: QuerySpec,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    ids: Tensor,
    propose: Proposal,
    queries: int,
    *,
    early_stop: bool,
    price: int = 1,
) -> AttackResult:
    """Run one attempt: ``queries * price`` forwards for an example that stands, and the judge's at the best point.

    ``price`` is what a proposal and its query cost, where a proposal asks questions of its own.
    """
    board = Scoreboard(ask, x, y, threat)
    low = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    rows, no = torch.arange(len(x), device=x.device), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    state = QueryState(rows, ids, x, y, threat, x, x, low, no)
    for k in range(queries):
        state = propose(state, k)
        board.cost[state.rows, 0] += price
        state = _kept(ask, state, hold=early_stop)
        if early_stop and (k + 1) % _between_looks(x.device) == 0:
            state = _retired(board, state)
            if not len(state.rows):
                return board.result()
    board.submit(state.rows, state.best)
    return board.result()


def _between_looks(device: torch.device) -> int:
    """Return after how many queries to look which rows are done: it waits for an accelerator, so seldom there."""
    return 1 if device.type == "cpu" else 10


@torch.no_grad()
def _kept(ask: QuerySpec, state: QueryState, *, hold: bool) -> QueryState:
    """Ask, and keep the points that raised the loss; with ``hold`` a row that fools the model keeps its point."""
    logits = query_model(ask.model, state.adv, ask.dtype)
    fools, loss = ask.fooled(logits, state.y), ask.loss_at(logits, state.y).to(state.loss.dtype)
    loss = torch.where(fools & ~torch.isfinite(loss), torch.inf, loss)  # no answer is worse than an answer of NaN
    better = (loss > state.loss) & ~state.found  # never true of a NaN
    return replace(
        state,
        best=torch.where(broadcast_per_example(better, state.x), state.adv, state.best),
        loss=torch.where(better, loss, state.loss),
        found=state.found | (better & fools) if hold else state.found,
    )


def _retired(board: Scoreboard, state: QueryState) -> QueryState:
    """Judge the rows that look fooled; those confirmed leave, the others go on from where they are.

    An answer of NaN that only the fast target gave is refused: any other point is better then.
    """
    proposed = state.found.nonzero()[:, 0]
    if not len(proposed):
        return state
    confirmed = board.submit(state.rows[proposed], state.best[proposed])
    keep = mask_out(proposed[confirmed], len(state.rows))
    loss = state.loss.masked_fill(state.loss == torch.inf, -torch.inf)
    return replace(state, loss=loss, found=torch.zeros_like(state.found)).select(keep.nonzero()[:, 0])


def drawn(state: QueryState, query: int, width: int, seed: int, restart: int) -> QueryState:
    """Return the state with the query's uniform numbers ``(B, width)`` in ``memory["now"]``."""
    if query % _BLOCK == 0:
        stream = restart * _LANE + query // _BLOCK
        draws = example_rng.uniform(state.ids, (_BLOCK, width), seed, stream)
        state = state.remember(draws=draws)
    return state.remember(now=state.memory["draws"][:, query % _BLOCK])

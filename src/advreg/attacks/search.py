"""The search loop of every gradient attack: query the model, keep the best iterate, retire broken rows, take a step.

    search        clean points verified -> attempts on the survivors -> worst case of all   (restarts, chunks)
    run_attempt   query -> update the state -> rule -> query -> ... -> update the state     (one attempt)

A rule maps the `AttackState` after a query to the next iterate; attacks differ in their rule. Examples are independent of
each other: rows may leave the batch at any moment without a change to the results of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from advreg.attacks.inputs import read_examples, read_ids
from advreg.attacks.model import original, widen
from advreg.attacks.query import QuerySpec as QuerySpec
from advreg.attacks.query import query as query
from advreg.attacks.query import require_positive as require_positive
from advreg.attacks.result import AttackResult, concatenate
from advreg.attacks.rows import RowState
from advreg.attacks.scoreboard import Scoreboard
from advreg.attacks.verification import outputs_of, reject_device, reject_outputs, require_eval_mode
from advreg.example_rng import Stream
from advreg.region import Region
from advreg.threat import ThreatModel, broadcast_per_example, region_of


@dataclass(frozen=True)
class AttackState(RowState):
    """One row for each example still under attack.

    Attributes:
        rows: position of each row in the batch.
        x, y: clean inputs and labels.
        threat: the threat model of these rows.
        region: the valid points around ``x``, prepared once for all steps.
        radii: eps in the dtype of the inputs, ``(B, 1, ...)``.
        adv: current iterate.
        loss, grad, score: results of the last query, at the current iterate; see `advreg.tasks.Task`.
        best, best_loss, best_score: the best iterate so far: the lowest score first, then the highest loss.
        memory: tensors ``(B, ...)`` that the rule keeps between iterations.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    threat: ThreatModel
    region: Region
    radii: Tensor
    adv: Tensor
    loss: Tensor
    grad: Tensor
    score: Tensor
    best: Tensor
    best_loss: Tensor
    best_score: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)

    def moved_to(self, point: Tensor, **changes: Any) -> AttackState:
        """Return the state at the valid point nearest to ``point (B, ...)``, with other fields changed as given."""
        return replace(self, adv=self.region.project(point), **changes)


Rule = Callable[[AttackState, int], AttackState]
"""``(state, iteration) -> state`` with the next iterate in ``adv``: where attacks differ."""


def initial_state(x: Tensor, y: Tensor, threat: ThreatModel, adv: Tensor) -> AttackState:
    """Return the state before the first query.

    Args:
        x: clean inputs ``(B, ...)``.
        y: labels.
        threat: the threat model.
        adv: first iterates ``(B, ...)``.

    Returns:
        The state; its losses are -inf.
    """
    rows = torch.arange(len(x), device=x.device)
    low = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    right = torch.ones(len(x), dtype=torch.bool, device=x.device)
    zero = torch.zeros_like(x)
    return AttackState(
        rows, x, y, threat, region_of(threat, x), threat.radii(x), adv, low, zero, right, adv, low, right
    )


def update_state(spec: QuerySpec, state: AttackState, *, gradient: bool) -> AttackState:
    """Return the state after a query at the iterate: its loss and gradient, and the best iterate so far."""
    point = state.threat.repair(state.adv, state.x)  # rules for features hold at the query; the iterate is continuous
    outputs, loss, grad = query(spec, point, state.y, gradient=gradient)
    loss = loss.nan_to_num(-torch.inf, -torch.inf, -torch.inf).to(state.loss.dtype)
    score = spec.score(outputs, state.y)
    better = (score < state.best_score) | ((score == state.best_score) & (loss > state.best_loss))
    return replace(
        state,
        loss=loss,
        grad=grad,
        score=score,
        best=torch.where(broadcast_per_example(better, state.x), point, state.best),
        best_loss=torch.where(better, loss, state.best_loss),
        best_score=torch.where(better, score, state.best_score),
    )


def run_attempt(
    spec: QuerySpec,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    start: Tensor,
    rule: Rule,
    *,
    steps: int,
    early_stop: bool,
    owner: Tensor | None = None,
) -> AttackResult:
    """Run one attempt: ``steps`` queries with gradient, one without at the last iterate, and one verification.

    An example that survives costs ``steps + 2`` forwards and ``steps`` backwards; all but the verification count ``eot``
    times.

    Args:
        spec: model and objective.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        start: first iterates ``(B, ...)``.
        rule: from one state to the next iterate.
        steps: number of steps.
        early_stop: whether a broken example leaves at once.
        owner: example of each row ``(B,)`` if rows are stacked restarts; all rows of a broken example leave.

    Returns:
        An `AttackResult`, verified on the original model.
    """
    board = Scoreboard(spec, x, y, threat, owner)
    state = initial_state(x, y, threat, start)
    for k in range(steps + 1):
        gradient = k < steps
        board.count(backward=gradient)
        state = update_state(spec.at(k / steps), state, gradient=gradient)
        if early_stop and (x.device.type == "cpu" or k % 10 == 9):  # the check synchronises the device: seldom on GPUs
            state = board.retire(state)
            if not len(state.rows):
                return board.result()
        if gradient:
            state = rule(state, k)
    board.charge(state.rows)
    board.submit(state.rows, state.best)
    return board.result()


Attempt = Callable[[Tensor, Tensor, ThreatModel, Tensor, Any], AttackResult]
"""``(x, y, threat, ids, restart) -> result``: one attempt on a batch.

``restart`` is a number, or integers ``(B,)`` if several restarts are rows of one batch (see `search`).
"""

LabelSelector = Callable[[Tensor, Tensor], Tensor]
"""``(clean outputs (B, ...), y) -> y``: the labels of the attempts, for attacks that choose classes by the clean logits."""


def keep_labels(_logits: Tensor, y: Tensor) -> Tensor:
    """Return the labels as they are: the label selector of attacks that do not choose classes."""
    return y


def search(
    spec: QuerySpec,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    attempt: Attempt,
    *,
    restarts: int = 1,
    ids: Tensor | None = None,
    early_stop: bool = True,
    batch_size: int = 512,
    aim: LabelSelector = keep_labels,
    fill: int = 1,
) -> AttackResult:
    """Verify the clean points, which are inside every threat model, then run attempts on the survivors.

    Args:
        spec: model and objective.
        x: clean inputs ``(B, ...)`` in the box of ``threat``: a tensor, a NumPy array or nested lists.
        y: labels ``(B,)`` of any integer type, probabilities ``(B, K)``, or targets of the spec's task ``(B, ...)``; what the
            adversary wants if targeted.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        attempt: one attempt on a batch.
        restarts: number of attempts, each on the survivors (on all examples without ``early_stop``).
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        early_stop: whether a broken example leaves the batch at once.
        batch_size: number of examples attacked at a time.
        aim: returns the labels of the attempts from the clean logits, which verification computes anyway.
        fill: number of rows that a batch should have: if fewer examples survive, several restarts run as rows of one batch,
            which takes less time for the same passes. The attempt must then accept a tensor as ``restart``.

    Returns:
        The worst case over the clean point and all attempts.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ConfigError: ``restarts`` below 1.

    Example:
        >>> model, x, y = torch.nn.Linear(4, 3).eval(), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> spec = QuerySpec(model, lambda logits, y: -logits[:, 0])
        >>> attempt = lambda x, y, threat, ids, restart: Scoreboard(spec, x, y, threat).result()  # no query
        >>> search(spec, x, y, ThreatModel("linf", 0.1), attempt).forwards
        2
    """
    require_positive(restarts=restarts)
    require_eval_mode(spec.model)
    parts = []
    with torch.inference_mode(False), torch.no_grad():  # in any mode of the caller, only queries build graphs
        x, y = read_examples(x, y, threat, spec.task)
        reject_device(spec.model, x)
        ids, y = read_ids(ids, x), y.detach().clone()
        x = widen(x.detach().clone())
        for rows in torch.split(torch.arange(len(x), device=x.device), batch_size):
            part = x[rows], y[rows], threat.select(rows), ids[rows]
            parts.append(_search_chunk(spec, part, attempt, aim, restarts=restarts, early_stop=early_stop, fill=fill))
    return concatenate(parts)


def _search_chunk(
    spec: QuerySpec,
    part: tuple[Tensor, Tensor, ThreatModel, Tensor],
    attempt: Attempt,
    aim: LabelSelector,
    *,
    restarts: int,
    early_stop: bool,
    fill: int,
) -> AttackResult:
    x, y, threat, ids = part
    result, y = _evaluate_clean(spec, x, y, threat, aim)
    first = 0
    while first < restarts:
        rows = (~result.broken if early_stop else torch.ones_like(result.broken)).nonzero()[:, 0]
        if not len(rows):
            break
        stacked = max(1, fill // len(rows))
        count = min(restarts - first, stacked, max(1, first))  # doubles at most, because the first restarts break most
        survivors = x[rows], y[rows], threat.select(rows), ids[rows]
        for found in _run_stacked(attempt, survivors, range(first, first + count)):
            result = result.improved_by(found, rows)
        first += count
    return result


def _run_stacked(
    attempt: Attempt, examples: tuple[Tensor, Tensor, ThreatModel, Tensor], restarts: range
) -> list[AttackResult]:
    """Return the results of several restarts, run as rows of one batch; a single restart runs as it is."""
    x, y, threat, ids = examples
    if len(restarts) == 1:
        return [attempt(x, y, threat, ids, restarts[0])]
    rows = torch.arange(len(x), device=x.device).repeat(len(restarts))
    restart = torch.tensor(restarts, device=x.device).repeat_interleave(len(x))
    found = attempt(x[rows], y[rows], threat.select(rows), ids[rows], restart)
    return [found.select(part) for part in torch.split(torch.arange(len(rows), device=x.device), len(x))]


def example_of_row(restart: Stream) -> Tensor | None:
    """Return the example of each row of stacked restarts, ``(B,)``; None if ``restart`` is one number."""
    if not isinstance(restart, Tensor):
        return None
    examples = int((restart == restart[0]).sum())
    return torch.arange(len(restart), device=restart.device) % examples


def _evaluate_clean(
    spec: QuerySpec, x: Tensor, y: Tensor, threat: ThreatModel, aim: LabelSelector
) -> tuple[AttackResult, Tensor]:
    """Return the result of the clean points, and the labels of the attempts.

    It costs one forward; clean errors of a fast copy cost another, in which its original confirms them.
    """
    outputs = outputs_of(spec.model, x)
    reject_outputs(spec.model, x, outputs, y, threat, spec.task)
    y = aim(outputs, y)
    board, score = Scoreboard(spec, x, y, threat), spec.score(outputs, y)
    if original(spec.model) is spec.model:
        board.record(torch.arange(len(x), device=x.device), x, score, outputs)
        return board.result(), y
    board.cost[:, 0] += 1
    board.loss = spec.loss_at(outputs, y).to(x.dtype)
    board.keep_score(torch.arange(len(x), device=x.device), score)
    proposed = spec.is_broken(score).nonzero()[:, 0]
    if len(proposed):
        board.submit(proposed, x[proposed])
    return board.result(), y

"""The loop that every gradient attack is made of: ask the model, remember the best, retire the broken, take a step.

    search   clean point judged -> attempts on the survivors -> worst case of all         (restarts, chunks)
    climb    query -> observe -> rule -> query -> ... -> observe                           (one attempt)

A rule maps the `AttackState` after a query to the next iterate: that is where attacks differ. Examples never see each
other: rows may leave the batch at any moment without changing what the others do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from advreg.attacks.inputs import read_batch, read_ids, reject_classes
from advreg.attacks.model import Model, gradient_at, input_dtype, original, own_leaf, query_model, widen
from advreg.attacks.result import AttackResult, concatenate
from advreg.attacks.rows import RowState
from advreg.attacks.scoreboard import Scoreboard
from advreg.attacks.verification import (
    logits_of,
    reject_device,
    reject_softmax,
    require_eval_mode,
    require_finite,
)
from advreg.errors import ConfigError
from advreg.example_rng import Stream
from advreg.objectives import Objective, fooled, negated
from advreg.region import Region
from advreg.threat import ThreatModel, broadcast_per_example, region_of


@dataclass(frozen=True)
class AttackState(RowState):
    """One row for each example still under attack; everything in it can be selected by rows.

    Attributes:
        rows: position of each row in the batch.
        x, y: clean inputs and labels.
        threat: the threat model, its eps one for each row where it varies.
        region: the valid points around ``x``, prepared once for all steps.
        radii: eps in the dtype of the inputs, ``(B, 1, ...)``.
        adv: current iterate.
        loss, grad, fooled: of the current iterate, from the last query.
        best, best_loss, best_fooled: of the best iterate so far: fooled first, then by loss.
        memory: whatever the rule wants to remember, tensors ``(B, ...)``.
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
    fooled: Tensor
    best: Tensor
    best_loss: Tensor
    best_fooled: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)

    def moved_to(self, point: Tensor, **changes: Any) -> AttackState:
        """Return the state at the valid point nearest to this one, with other changes."""
        return replace(self, adv=self.region.project(point), **changes)


Rule = Callable[[AttackState, int], AttackState]
"""``(state, iteration) -> state`` with the next iterate in ``adv``: the heart of an attack."""


@dataclass(frozen=True)
class QuerySpec:
    """How the model is asked.

    Attributes:
        model: the network under attack, original or fast target.
        objective: what to maximise, a function of logits and labels.
        targeted: whether ``y`` is the class the adversary wants; the objective is then minimised.
        eot: samples over which gradient, loss and verdict are averaged, for models that are random.
    """

    model: Model
    objective: Objective
    targeted: bool = False
    eot: int = 1

    def __post_init__(self) -> None:
        require_positive(eot=self.eot)

    @cached_property
    def dtype(self) -> torch.dtype | None:
        """Floating type of the model's inputs, found once and not at every query."""
        return input_dtype(self.model)

    def loss_at(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the value to maximise, ``(B,)``."""
        return (negated(self.objective) if self.targeted else self.objective)(logits, y)

    def fooled(self, logits: Tensor, y: Tensor) -> Tensor:
        """Say which rows the model gets wrong (or as the adversary wants, if targeted)."""
        return fooled(logits, y, self.targeted)


def require_positive(**counts: int) -> None:
    """Raise unless every count is 1 or more: an attack without steps would find nothing and say so of the model.

    Raises:
        ConfigError: one is not, with its name.
    """
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} is {count}; give 1 or more")


Asked = tuple[Tensor, Tensor, Tensor]
"""Logits, loss and gradient of one query."""


def query(ask: QuerySpec, adv: Tensor, y: Tensor, *, gradient: bool = True) -> Asked:
    """Ask the model at ``adv``: logits, loss and the gradient of the summed loss (zeros where not asked for).

    Gradients are taken to the input only, so no weight gradient is ever computed. Non-finite entries count as zero.

    Raises:
        ModelError: the logits do not depend on the input in a way autograd can follow.
    """
    total = _sample(ask, adv, y, gradient)
    for _ in range(ask.eot - 1):
        total = _added(total, _sample(ask, adv, y, gradient))
    if ask.eot == 1:
        return total  # without the copies that a mean makes
    logits, loss, grad = total
    return logits / ask.eot, loss / ask.eot, grad / ask.eot


def _sample(ask: QuerySpec, adv: Tensor, y: Tensor, gradient: bool) -> Asked:
    """Ask once."""
    with torch.inference_mode(False), torch.set_grad_enabled(gradient):
        point = own_leaf(adv).requires_grad_(gradient)
        z = query_model(ask.model, point, ask.dtype)
        value = ask.loss_at(z, y)
        grad = gradient_at(value, point) if gradient else torch.zeros_like(adv)
    return z.detach(), value.detach(), grad


def _added(a: Asked, b: Asked) -> Asked:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def initial_state(x: Tensor, y: Tensor, threat: ThreatModel, adv: Tensor) -> AttackState:
    """Return the state before the first query."""
    rows = torch.arange(len(x), device=x.device)
    low = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    no = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    zero = torch.zeros_like(x)
    return AttackState(rows, x, y, threat, region_of(threat, x), threat.radii(x), adv, low, zero, no, adv, low, no)


def update_state(ask: QuerySpec, state: AttackState, *, gradient: bool) -> AttackState:
    """Return the state after a query: loss and gradient of the iterate, and the best iterate so far."""
    logits, loss, grad = query(ask, state.adv, state.y, gradient=gradient)
    loss = loss.nan_to_num(-torch.inf, -torch.inf, -torch.inf).to(state.loss.dtype)
    fooled = ask.fooled(logits, state.y)
    better = (fooled > state.best_fooled) | ((fooled == state.best_fooled) & (loss > state.best_loss))
    return replace(
        state,
        loss=loss,
        grad=grad,
        fooled=fooled,
        best=torch.where(broadcast_per_example(better, state.x), state.adv, state.best),
        best_loss=torch.where(better, loss, state.best_loss),
        best_fooled=state.best_fooled | fooled,
    )


def run_attempt(
    ask: QuerySpec,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    start: Tensor,
    rule: Rule,
    steps: int,
    *,
    early_stop: bool,
    owner: Tensor | None = None,
) -> AttackResult:
    """Run one attempt: ``steps`` queries with a gradient, one without at the last iterate, and the judge's at the best.

    Cost for an example that stands: ``steps + 2`` forwards and ``steps`` backwards, times the EOT samples but for the judge.
    """
    board = Scoreboard(ask, x, y, threat, owner)
    state = initial_state(x, y, threat, start)
    for k in range(steps + 1):
        gradient = k < steps
        board.count(backward=gradient)
        state = update_state(ask, state, gradient=gradient)
        if early_stop and (x.device.type == "cpu" or k % 10 == 9):  # looking waits for an accelerator: seldom there
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

``restart`` is a number, or integers ``(B,)`` where restarts are stacked as rows (see `search`).
"""

LabelSelector = Callable[[Tensor, Tensor], Tensor]
"""``(clean logits (B, K), y) -> y``: the labels that attempts get, for attacks that choose classes by the clean logits."""


def keep_labels(_logits: Tensor, y: Tensor) -> Tensor:
    """Aim at nothing but the labels as they were given."""
    return y


def search(
    ask: QuerySpec,
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
    """Judge the clean points (they are inside every threat model), then attempt again and again on what stands.

    Args:
        ask: the model and what to maximise on it.
        x: clean inputs ``(B, ...)`` in the threat's box: tensor, NumPy array or nested lists.
        y: labels ``(B,)`` of any integer type, or probabilities ``(B, K)``; the wanted classes if targeted.
        threat: what the adversary may do.
        attempt: one attempt on a batch.
        restarts: attempts, each on the examples that still stand (on all of them if not ``early_stop``).
        ids: example ids ``(B,)`` on which the random draws depend; 0 to B-1 where not given.
        early_stop: whether a broken example leaves at once.
        batch_size: examples under attack at a time.
        aim: what attempts get for ``y``, from the logits of the clean points, which the judge had to compute anyway.
        fill: rows that a batch should have: where fewer examples are left, several restarts run at once as rows of one
            batch, which takes less time for the same passes. The attempt must then take a tensor as ``restart``.

    Returns:
        The worst case over the clean point and all attempts.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: shapes that do not fit, values outside the box or not finite.
        ConfigError: restarts below 1.
    """
    require_positive(restarts=restarts)
    require_eval_mode(ask.model)
    parts = []
    with torch.inference_mode(False), torch.no_grad():  # whatever mode the caller is in: only queries make graphs
        x, y = read_batch(x, y, threat)
        reject_device(ask.model, x)
        x, y, ids = widen(x.detach().clone()), y.detach().clone(), read_ids(ids, x)
        for rows in torch.split(torch.arange(len(x), device=x.device), batch_size):
            part = x[rows], y[rows], threat.select(rows), ids[rows]
            parts.append(_search_chunk(ask, part, attempt, restarts, early_stop, aim, fill))
    return concatenate(parts)


def _search_chunk(
    ask: QuerySpec,
    part: tuple[Tensor, Tensor, ThreatModel, Tensor],
    attempt: Attempt,
    restarts: int,
    early_stop: bool,
    aim: LabelSelector,
    fill: int,
) -> AttackResult:
    x, y, threat, ids = part
    result, y = _clean_points(ask, x, y, threat, aim)
    first = 0
    while first < restarts:
        rows = (~result.broken if early_stop else torch.ones_like(result.broken)).nonzero()[:, 0]
        if not len(rows):
            break
        count = min(
            restarts - first, max(1, fill // len(rows)), max(1, first)
        )  # at most as many again: the first break most
        survivors = x[rows], y[rows], threat.select(rows), ids[rows]
        for found in _stacked(attempt, survivors, range(first, first + count)):
            result = result.improved_by(found, rows)
        first += count
    return result


def _stacked(
    attempt: Attempt, examples: tuple[Tensor, Tensor, ThreatModel, Tensor], restarts: range
) -> list[AttackResult]:
    """Return the results of several restarts, run as rows of one batch; a single one runs as it is."""
    x, y, threat, ids = examples
    if len(restarts) == 1:
        return [attempt(x, y, threat, ids, restarts[0])]
    rows = torch.arange(len(x), device=x.device).repeat(len(restarts))
    restart = torch.tensor(restarts, device=x.device).repeat_interleave(len(x))
    found = attempt(x[rows], y[rows], threat.select(rows), ids[rows], restart)
    return [found.select(part) for part in torch.split(torch.arange(len(rows), device=x.device), len(x))]


def example_of_row(restart: Stream) -> Tensor | None:
    """Return which example each row of stacked restarts belongs to, ``(B,)``; None where nothing is stacked."""
    if not isinstance(restart, Tensor):
        return None
    examples = int((restart == restart[0]).sum())
    return torch.arange(len(restart), device=restart.device) % examples


def _clean_points(
    ask: QuerySpec, x: Tensor, y: Tensor, threat: ThreatModel, aim: LabelSelector
) -> tuple[AttackResult, Tensor]:
    """Return the result of doing nothing, and the labels that attempts get.

    One forward; a fast target only proposes clean errors, which its original has to confirm with another.
    """
    logits = logits_of(ask.model, x)
    require_finite(logits)
    reject_softmax(ask.model, x, logits, threat.box)
    reject_classes(y, logits.shape[1])
    y = aim(logits, y)
    board, wrong = Scoreboard(ask, x, y, threat), ask.fooled(logits, y)
    if original(ask.model) is ask.model:
        board.record(torch.arange(len(x), device=x.device), x, wrong, logits)
        return board.result(), y
    board.cost[:, 0] += 1
    board.loss = ask.loss_at(logits, y).to(x.dtype)
    proposed = wrong.nonzero()[:, 0]
    if len(proposed):
        board.submit(proposed, x[proposed])
    return board.result(), y

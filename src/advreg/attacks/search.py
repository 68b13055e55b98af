"""The search loop of every gradient attack: query the model, keep the best iterate, retire broken rows, take a step.

    search        clean points verified -> attempts on the survivors -> worst case of all   (restarts, chunks)
    run_attempt   query -> update the state -> rule -> query -> ... -> update the state     (one attempt)

A rule maps the `AttackState` after a query to the next iterate; attacks differ in their rule. Examples are independent of
each other: rows may leave the batch at any moment without a change to the results of the others.
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
from advreg.attacks.verification import logits_of, reject_device, reject_softmax, require_eval_mode, require_finite
from advreg.errors import ConfigError
from advreg.example_rng import Stream
from advreg.objectives import Objective, fooled, negate
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
        loss, grad, fooled: outputs of the last query, at the current iterate.
        best, best_loss, best_fooled: the best iterate so far: one that fools the model first, then the highest loss.
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
    fooled: Tensor
    best: Tensor
    best_loss: Tensor
    best_fooled: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)

    def moved_to(self, point: Tensor, **changes: Any) -> AttackState:
        """Return the state at the valid point nearest to ``point (B, ...)``, with other fields changed as given."""
        return replace(self, adv=self.region.project(point), **changes)


Rule = Callable[[AttackState, int], AttackState]
"""``(state, iteration) -> state`` with the next iterate in ``adv``: where attacks differ."""


@dataclass(frozen=True)
class QuerySpec:
    """How the model is queried.

    Attributes:
        model: the attacked model, original or fast copy.
        objective: function of logits and labels to maximise.
        targeted: whether ``y`` holds the classes that the adversary wants; the objective is then minimised.
        eot: number of samples over which logits, loss and gradient are averaged, for models that are random.
    """

    model: Model
    objective: Objective
    targeted: bool = False
    eot: int = 1

    def __post_init__(self) -> None:
        require_positive(eot=self.eot)

    @cached_property
    def dtype(self) -> torch.dtype | None:
        """Floating type of the model's inputs, determined once instead of at every query."""
        return input_dtype(self.model)

    def loss_at(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the value to maximise, ``(B,)``."""
        return (negate(self.objective) if self.targeted else self.objective)(logits, y)

    def fooled(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return whether the model misclassifies each row (or predicts the target class, if targeted), ``(B,)``."""
        return fooled(logits, y, self.targeted)


def require_positive(**counts: int) -> None:
    """Raise unless every count is 1 or more; with 0 steps an attack would report every model as robust.

    Args:
        counts: the counts by name.

    Raises:
        ConfigError: a count below 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} is {count}; give 1 or more")


QueryOutputs = tuple[Tensor, Tensor, Tensor]
"""Logits ``(B, K)``, loss ``(B,)`` and gradient ``(B, ...)`` of one query."""


def query(spec: QuerySpec, adv: Tensor, y: Tensor, *, gradient: bool = True) -> QueryOutputs:
    """Query the model at ``adv``: logits, loss, and the gradient of the summed loss.

    Gradients are taken to the input only, so that no weight gets one. Non-finite entries of the gradient become zero.

    Args:
        spec: model, objective and number of samples.
        adv: points ``(B, ...)``.
        y: labels.
        gradient: whether to compute the gradient; otherwise it is zero.

    Returns:
        Logits ``(B, K)``, loss ``(B,)`` and gradient ``(B, ...)``.

    Raises:
        ModelError: the logits do not depend on the input in a way that autograd can follow.

    Example:
        >>> spec = QuerySpec(torch.nn.Identity(), lambda logits, y: logits.sum(1))
        >>> query(spec, torch.tensor([[1.0, 2.0]]), torch.tensor([0]))[2].tolist()
        [[1.0, 1.0]]
    """
    total = _query_once(spec, adv, y, gradient)
    for _ in range(spec.eot - 1):
        total = _add(total, _query_once(spec, adv, y, gradient))
    if spec.eot == 1:
        return total  # without the copies that a mean makes
    logits, loss, grad = total
    return logits / spec.eot, loss / spec.eot, grad / spec.eot


def _query_once(spec: QuerySpec, adv: Tensor, y: Tensor, gradient: bool) -> QueryOutputs:
    with torch.inference_mode(False), torch.set_grad_enabled(gradient):
        point = own_leaf(adv).requires_grad_(gradient)
        z = query_model(spec.model, point, spec.dtype)
        value = spec.loss_at(z, y)
        grad = gradient_at(value, point) if gradient else torch.zeros_like(adv)
    return z.detach(), value.detach(), grad


def _add(a: QueryOutputs, b: QueryOutputs) -> QueryOutputs:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


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
    no = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    zero = torch.zeros_like(x)
    return AttackState(rows, x, y, threat, region_of(threat, x), threat.radii(x), adv, low, zero, no, adv, low, no)


def update_state(spec: QuerySpec, state: AttackState, *, gradient: bool) -> AttackState:
    """Return the state after a query at the iterate: its loss and gradient, and the best iterate so far."""
    point = state.threat.repair(state.adv, state.x)  # rules for features hold at the query; the iterate is continuous
    logits, loss, grad = query(spec, point, state.y, gradient=gradient)
    loss = loss.nan_to_num(-torch.inf, -torch.inf, -torch.inf).to(state.loss.dtype)
    fooled = spec.fooled(logits, state.y)
    better = (fooled > state.best_fooled) | ((fooled == state.best_fooled) & (loss > state.best_loss))
    return replace(
        state,
        loss=loss,
        grad=grad,
        fooled=fooled,
        best=torch.where(broadcast_per_example(better, state.x), point, state.best),
        best_loss=torch.where(better, loss, state.best_loss),
        best_fooled=state.best_fooled | fooled,
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
        state = update_state(spec, state, gradient=gradient)
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
"""``(clean logits (B, K), y) -> y``: the labels of the attempts, for attacks that choose classes by the clean logits."""


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
        y: labels ``(B,)`` of any integer type, or probabilities ``(B, K)``; the target classes if targeted.
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
        x, y = read_batch(x, y, threat)
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
    logits = logits_of(spec.model, x)
    require_finite(logits)
    reject_softmax(spec.model, x, logits, threat.box)
    reject_classes(y, logits.shape[1])
    y = aim(logits, y)
    board, wrong = Scoreboard(spec, x, y, threat), spec.fooled(logits, y)
    if original(spec.model) is spec.model:
        board.record(torch.arange(len(x), device=x.device), x, wrong, logits)
        return board.result(), y
    board.cost[:, 0] += 1
    board.loss = spec.loss_at(logits, y).to(x.dtype)
    proposed = wrong.nonzero()[:, 0]
    if len(proposed):
        board.submit(proposed, x[proposed])
    return board.result(), y

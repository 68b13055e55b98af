"""The methods of a certification, each on the examples that those before it left undecided."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advreg.attacks.verification import verify_with_logits
from advreg.bounds.branching import branch_and_bound
from advreg.bounds.graph import Graph, trace
from advreg.bounds.inputs import InputSet
from advreg.bounds.interval import Interval, interval_bounds
from advreg.bounds.linear import LowerBound
from advreg.bounds.margins import margin_rows, margins
from advreg.bounds.slopes import optimised_margins
from advreg.certification.milp import TOLERANCE, count_unstable, minimise_exactly
from advreg.certification.undecided import Undecided
from advreg.evaluation.protocols import ProtocolStage, resolve
from advreg.evaluation.stage_rows import stage_rows
from advreg.pass_counting import Passes

_CLOSE = 1e-2
"""Share of the largest logit up to which a bound in float32 is not believed, but computed again in float64."""
_ROUNDING = 1e-3, 1e-9
"""Rounding of a bound in float32 and float64, in shares of the magnitude of its terms."""
_BINARIES = 320
_PORTION = 16


Method = Callable[[Undecided], None]
"""Decides some of the undecided examples."""


def exact_copy(model: nn.Module, x: Tensor) -> Graph:
    """Return the operations of the model in float64.

    Args:
        model: the original model.
        x: some inputs.
    """
    return trace(copy.deepcopy(model).double(), x.double())


def clean(state: Undecided) -> None:
    """Decide the misclassified examples: they are broken without an attack."""
    state.decide((state.logits.argmax(1) != state.y).nonzero()[:, 0], "broken", "clean")


def known(state: Undecided) -> None:
    """Take over proofs at a larger eps, counterexamples at a smaller one, and verdicts of other verifiers."""
    for position in state.left().tolist():
        found = state.subject.known.settled.get(int(state.ids[position]))
        if found is not None:
            state.decide(torch.tensor([position]), *found)


def ibp(state: Undecided) -> None:
    """Prove what interval bounds prove."""

    def bounds(part: Tensor, exact: bool) -> LowerBound:
        graph, inputs = state.graph(exact=exact), state.inputs(part, exact=exact)
        return margins(graph, inputs, state.y[part], interval_bounds(graph, *inputs.interval), depth=1)

    _prove(state, "ibp", bounds)


def crown(state: Undecided) -> None:
    """Prove what linear bounds prove."""

    def bounds(part: Tensor, exact: bool) -> LowerBound:
        intervals = state.intervals(part, exact=exact)
        return margins(state.graph(exact=exact), state.inputs(part, exact=exact), state.y[part], intervals)

    _prove(state, "crown", bounds)


def alpha(state: Undecided) -> None:
    """Prove what linear bounds with optimised slopes prove."""
    _prove(state, "alpha", lambda part, exact: _optimise(state, part, exact))


def _optimise(state: Undecided, part: Tensor, exact: bool) -> LowerBound:
    y, intervals = state.y[part], state.intervals(part, exact=exact)
    graph, inputs = state.graph(exact=exact), state.inputs(part, exact=exact)
    return optimised_margins(graph, inputs, y, intervals, margins(graph, inputs, y, intervals))


def _prove(state: Undecided, name: str, bounds: Callable[[Tensor, bool], LowerBound]) -> None:
    """Decide the examples of which every margin is above what rounding can add, in float32 first, in float64 where close."""
    slacks = state.slack
    for part in torch.split(state.left(), _PORTION):
        with _count_bounds(state, part):
            found = bounds(part, False)
            worst = found.value.amin(1).double()
            size, slack = state.logits[part].abs().amax(1).clamp_min(1.0).double(), slacks[part]
            sure = worst > torch.maximum(_CLOSE * size, _ROUNDING[0] * found.mass.amax(1).double()) + slack
            close = ((worst > 0) & ~sure).nonzero()[:, 0]
            if len(close):
                again = bounds(part[close], True)
                worst[close] = again.value.amin(1)
                sure[close] = worst[close] > _ROUNDING[1] * (1 + again.mass.amax(1)) + slack[close]
        state.lower[part] = torch.fmax(state.lower[part], worst)
        state.decide(part[sure], "proved", name)


@contextmanager
def _count_bounds(state: Undecided, part: Tensor) -> Iterator[None]:
    """Add the passes of bounds in the block to the cost of these examples, spread evenly."""
    counters = state.subject.graph.passes, state.subject.exact.passes
    before = sum(each.forwards + each.backwards for each in counters)
    yield
    spent = Passes()
    spent.forwards = sum(each.forwards + each.backwards for each in counters) - before
    state.cost[part, 2] += spent.shares(len(part))[:, 0]


def ledger(state: Undecided) -> None:
    """Decide what an evaluation of the same model has broken: no proof can exist."""
    broken = state.subject.known.broken
    mine = [i for i in state.left().tolist() if int(state.ids[i]) in broken]
    state.decide(torch.tensor(mine, dtype=torch.int64), "broken", "ledger")


def attack(state: Undecided) -> None:
    """Break what the attacks of `strong` break, each on every undecided example: all of them are near the boundary."""
    subject, left = state.subject, state.left()
    stages = tuple(ProtocolStage(stage.name, stage.attack) for stage in resolve("strong", subject.threat.norm).stages)
    rows = stage_rows(subject.attack, stages, state.ids[left])
    place = {int(state.ids[i]): i for i in left.tolist()}
    for row in rows:
        state.cost[place[row["id"]], :2] += torch.tensor([row["forwards"], row["backwards"]])
    broken = sorted({place[row["id"]] for row in rows if row["broken"]})
    state.decide(torch.tensor(broken, dtype=torch.int64), "broken", "attack")


def branch(state: Undecided) -> None:
    """Decide by branch and bound, within the budget of each margin: of ReLUs and leaky ReLUs, which splits make exact."""
    if None not in state.subject.exact.leaks:
        _each_margin(state, "branch", _branch_margin)


def milp(state: Undecided) -> None:
    """Decide exactly the examples with few unstable ReLUs, in linf; the program has no other activation."""
    if state.subject.threat.norm == "linf" and state.subject.exact.leaks <= {0.0}:
        _each_margin(state, "milp", _solve_margin)


@dataclass(frozen=True)
class MarginOutcome:
    """What an exact method found about one margin: whether it is positive everywhere, its bound, a point where it is not."""

    proved: bool
    lower: float
    point: Tensor | None


@dataclass(frozen=True)
class Margin:
    """One margin of one example, and what a proof of it needs.

    Attributes:
        position: of the example.
        inputs: its valid inputs, in float64.
        row: coefficients of the logits ``(1, K)``.
        intervals: ranges of every node's value.
        above: what the margin must exceed.
    """

    position: int
    inputs: InputSet
    row: Tensor
    intervals: list[Interval]
    above: float


def _branch_margin(state: Undecided, margin: Margin) -> MarginOutcome:
    exact, budget = state.subject.exact, state.subject.budget
    found = branch_and_bound(exact, margin.inputs, margin.row, margin.intervals, budget=budget, above=margin.above)
    state.domains[margin.position] += found.domains
    return MarginOutcome(found.proved, found.lower, found.point)


def _solve_margin(state: Undecided, margin: Margin) -> MarginOutcome:
    if count_unstable(state.subject.exact, margin.intervals) > _BINARIES:
        return MarginOutcome(False, -torch.inf, None)
    found = minimise_exactly(state.subject.exact, margin.inputs, margin.row, margin.intervals)
    return MarginOutcome(found.lower > margin.above + TOLERANCE, found.lower, found.point)


def _each_margin(state: Undecided, name: str, decide: Callable[[Undecided, Margin], MarginOutcome]) -> None:
    """Decide each undecided example margin by margin, the lowest bound first."""
    for position in state.left().tolist():
        at = torch.tensor([position])
        with _count_bounds(state, at):
            outcomes = list(_until_open(state, decide, _open_margins(state, position)))
        worst = min((outcome.lower for outcome in outcomes), default=torch.inf)
        state.lower[position] = max(float(state.lower[position].nan_to_num(-torch.inf)), worst)
        point = next((outcome.point for outcome in outcomes if not outcome.proved), None)
        if all(outcome.proved for outcome in outcomes):
            state.decide(at, "proved", name)
        elif point is not None and _confirm(state, at, point):
            state.decide(at, "broken", name)


def _until_open(
    state: Undecided, decide: Callable[[Undecided, Margin], MarginOutcome], left: Iterable[Margin]
) -> Iterator[MarginOutcome]:
    """Yield the outcomes up to the first margin that is not proved: the example cannot be proved then."""
    for margin in left:
        outcome = decide(state, margin)
        yield outcome
        if not outcome.proved:
            return


def _open_margins(state: Undecided, position: int) -> Iterator[Margin]:
    """Yield the margins of an example that optimised linear bounds in float64 leave open, the lowest bound first."""
    at = torch.tensor([position])
    inputs, intervals = state.inputs(at, exact=True), state.intervals(at, exact=True)
    state.unstable[position] = count_unstable(state.subject.exact, intervals)
    known = state.optimised(position, lambda: _optimise(state, at, True))
    rows = margin_rows(state.y[at], known.value.shape[1] + 1, torch.float64).coefficients
    needed = _ROUNDING[1] * (1 + known.mass[0]) + state.slack[position]
    for j in known.value[0].argsort().tolist():
        if known.value[0, j] <= needed[j]:
            yield Margin(position, inputs, rows[j : j + 1], intervals, float(needed[j]))


def _confirm(state: Undecided, at: Tensor, point: Tensor) -> bool:
    """Return whether the original model misclassifies a solver's point, cast to its type and projected."""
    x, threat = state.x[at], state.subject.threat
    valid = threat.project(point.to(x.dtype), x)
    state.cost[at, 0] += 1
    return bool(verify_with_logits(state.subject.model, x, valid, state.y[at], threat)[0])


METHODS: dict[str, tuple[Method, ...]] = {
    "ibp": (clean, known, ibp),
    "crown": (clean, known, ibp, crown),
    "alpha": (clean, known, ibp, crown, alpha),
    "complete": (clean, known, ibp, crown, alpha, ledger, branch, milp),
    "auto": (clean, known, ibp, crown, alpha, ledger, attack, branch, milp),
}
"""What each method of `certify` runs, in order; all but ``"clean"`` on the undecided."""

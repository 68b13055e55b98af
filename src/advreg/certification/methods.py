"""The methods of a certification, each on the examples that those before it left undecided."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from advreg.attacks.verification import logits_of, verify_with_logits
from advreg.bounds.branching import branch_and_bound
from advreg.bounds.graph import Graph, trace
from advreg.bounds.inputs import InputSet
from advreg.bounds.interval import Interval, interval_bounds
from advreg.bounds.linear import LowerBound
from advreg.bounds.margins import margin_rows, margins
from advreg.bounds.slopes import optimised_margins
from advreg.bounds.tightening import tight_intervals
from advreg.certification.milp import TOLERANCE, count_unstable, minimise_exactly
from advreg.evaluation.evaluate import evaluate
from advreg.evaluation.protocols import Protocol, ProtocolStage, resolve
from advreg.threat import ThreatModel

_CLOSE = 1e-2
"""Share of the largest logit up to which a bound in float32 is not believed, but computed again in float64."""
_ROUNDING = 1e-3, 1e-9
"""Rounding of a bound in float32 and float64, in shares of the magnitude of its terms."""
_BINARIES = 320
_PORTION = 16


@dataclass
class Undecided:
    """A chunk of examples, and what is known about each.

    Attributes:
        model: the original model.
        graph, exact: its operations, in its own precision and in float64.
        x, y: inputs and labels.
        threat: the threat model.
        seed: of the attacks.
        budget: domains of branch and bound for each margin.
        known: positions of the examples that attacks have broken before.
        verdict: ``"proved"``, ``"broken"`` or ``""`` for each example.
        method: what decided it.
        lower: lowest margin bound so far.
        domains, unstable: domains bounded, and ReLUs of open sign.
        cost: forwards and backwards of each example.
    """

    model: nn.Module
    graph: Graph
    exact: Graph
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int
    budget: int
    known: frozenset[int] = frozenset()
    verdict: list[str] = field(init=False)
    method: list[str] = field(init=False)
    lower: Tensor = field(init=False)
    domains: Tensor = field(init=False)
    unstable: Tensor = field(init=False)
    cost: Tensor = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.y)
        self.verdict, self.method = [""] * count, ["open"] * count
        self.lower = torch.full((count,), torch.nan, dtype=torch.float64)
        self.domains, self.unstable = (torch.zeros(count, dtype=torch.int64) for _ in range(2))
        self.cost = torch.zeros(count, 2, dtype=torch.int64)

    def left(self) -> Tensor:
        """Return the positions of the undecided examples."""
        return torch.tensor([i for i, verdict in enumerate(self.verdict) if not verdict], dtype=torch.int64)

    def decide(self, positions: Tensor, verdict: str, method: str) -> None:
        """Record the verdict of these examples."""
        for i in positions.tolist():
            self.verdict[i], self.method[i] = verdict, method

    def inputs(self, positions: Tensor, *, exact: bool = False) -> InputSet:
        """Return the valid inputs of these examples, in float64 if ``exact``."""
        x = self.x[positions]
        return InputSet(x.double() if exact else x, self.threat)

    def slack(self, positions: Tensor) -> Tensor:
        """Return what a bound must exceed to cover inference in the model's precision: twice the difference of the logits."""
        x = self.x[positions]
        own, wide = logits_of(self.model, x).double(), self.exact(x.double())
        return 2 * (own - wide).abs().amax(1)


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
    wrong = logits_of(state.model, state.x).argmax(1) != state.y
    state.cost[:, 0] += 1
    state.decide(wrong.nonzero()[:, 0], "broken", "clean")


def ibp(state: Undecided) -> None:
    """Prove what interval bounds prove."""

    def bounds(graph: Graph, inputs: InputSet, y: Tensor) -> LowerBound:
        return margins(graph, inputs, y, interval_bounds(graph, *inputs.interval), depth=1)

    _prove(state, "ibp", bounds)


def crown(state: Undecided) -> None:
    """Prove what linear bounds prove."""

    def bounds(graph: Graph, inputs: InputSet, y: Tensor) -> LowerBound:
        return margins(graph, inputs, y, tight_intervals(graph, inputs))

    _prove(state, "crown", bounds)


def alpha(state: Undecided) -> None:
    """Prove what linear bounds with optimised slopes prove."""

    def bounds(graph: Graph, inputs: InputSet, y: Tensor) -> LowerBound:
        intervals = tight_intervals(graph, inputs)
        return optimised_margins(graph, inputs, y, intervals, margins(graph, inputs, y, intervals))

    _prove(state, "alpha", bounds)


def _prove(state: Undecided, name: str, bounds: Callable[[Graph, InputSet, Tensor], LowerBound]) -> None:
    """Decide the examples of which every margin is above what rounding can add, in float32 first, in float64 where close."""
    for part in torch.split(state.left(), _PORTION):
        y = state.y[part]
        found = bounds(state.graph, state.inputs(part), y)
        worst = found.value.amin(1).double()
        size = logits_of(state.model, state.x[part]).abs().amax(1).clamp_min(1.0).double()
        slack = state.slack(part)
        sure = worst > torch.maximum(_CLOSE * size, _ROUNDING[0] * found.mass.amax(1).double()) + slack
        close = ((worst > 0) & ~sure).nonzero()[:, 0]
        if len(close):
            again = bounds(state.exact, state.inputs(part[close], exact=True), y[close])
            worst[close] = again.value.amin(1)
            sure[close] = worst[close] > _ROUNDING[1] * (1 + again.mass.amax(1)) + slack[close]
        state.lower[part] = torch.fmax(state.lower[part], worst)
        state.decide(part[sure], "proved", name)


def ledger(state: Undecided) -> None:
    """Decide what an evaluation of the same model has broken: no proof can exist."""
    state.decide(
        torch.tensor([i for i in state.left().tolist() if i in state.known], dtype=torch.int64), "broken", "ledger"
    )


def attack(state: Undecided) -> None:
    """Break what the attacks of `strong` break, each on every undecided example: all of them are near the boundary."""
    left = state.left()
    strong = resolve("strong", state.threat.norm)
    stages = tuple(ProtocolStage(stage.name, stage.attack) for stage in strong.stages)
    every = Protocol("every-strong", 1, stages)
    found = evaluate(state.model, (state.x[left], state.y[left]), state.threat, protocol=every, seed=state.seed)
    state.cost[left] += torch.tensor([found.forwards, found.backwards]) // len(left)
    state.decide(left[found.broken], "broken", "attack")


def branch(state: Undecided) -> None:
    """Decide by branch and bound, within the budget of each margin: of ReLUs and leaky ReLUs, which splits make exact."""
    if None not in state.exact.leaks:
        _each_margin(state, "branch", _branch_margin)


def milp(state: Undecided) -> None:
    """Decide exactly the examples with few unstable ReLUs, in linf; the program has no other activation."""
    if state.threat.norm == "linf" and state.exact.leaks <= {0.0}:
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
    found = branch_and_bound(
        state.exact, margin.inputs, margin.row, margin.intervals, budget=state.budget, above=margin.above
    )
    state.domains[margin.position] += found.domains
    return MarginOutcome(found.proved, found.lower, found.point)


def _solve_margin(state: Undecided, margin: Margin) -> MarginOutcome:
    if count_unstable(state.exact, margin.intervals) > _BINARIES:
        return MarginOutcome(False, -torch.inf, None)
    found = minimise_exactly(state.exact, margin.inputs, margin.row, margin.intervals)
    return MarginOutcome(found.lower > margin.above + TOLERANCE, found.lower, found.point)


def _each_margin(state: Undecided, name: str, decide: Callable[[Undecided, Margin], MarginOutcome]) -> None:
    """Decide each undecided example margin by margin, the lowest bound first."""
    for position in state.left().tolist():
        at = torch.tensor([position])
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
    inputs, y = state.inputs(at, exact=True), state.y[at]
    intervals = tight_intervals(state.exact, inputs)
    state.unstable[position] = count_unstable(state.exact, intervals)
    known = optimised_margins(state.exact, inputs, y, intervals, margins(state.exact, inputs, y, intervals))
    rows = margin_rows(y, known.value.shape[1] + 1, torch.float64).coefficients
    needed = _ROUNDING[1] * (1 + known.mass[0]) + state.slack(at)[0]
    for j in known.value[0].argsort().tolist():
        if known.value[0, j] <= needed[j]:
            yield Margin(position, inputs, rows[j : j + 1], intervals, float(needed[j]))


def _confirm(state: Undecided, at: Tensor, point: Tensor) -> bool:
    """Return whether the original model misclassifies a solver's point, cast to its type and projected."""
    x = state.x[at]
    valid = state.threat.project(point.to(x.dtype), x)
    state.cost[at, 0] += 1
    return bool(verify_with_logits(state.model, x, valid, state.y[at], state.threat)[0])


METHODS: dict[str, tuple[Method, ...]] = {
    "ibp": (clean, ibp),
    "crown": (clean, ibp, crown),
    "alpha": (clean, ibp, crown, alpha),
    "complete": (clean, ibp, crown, alpha, ledger, branch, milp),
    "auto": (clean, ibp, crown, alpha, ledger, attack, branch, milp),
}
"""What each method of `certify` runs, in order; all but ``"clean"`` on the undecided."""

"""What is certified, and what is known about each example of a chunk so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from advreg.attacks.verification import logits_of
from advreg.bounds.graph import Graph
from advreg.bounds.inputs import InputSet
from advreg.bounds.interval import Interval
from advreg.bounds.linear import LowerBound
from advreg.bounds.tightening import tight_intervals
from advreg.evaluation.attack_units import EvaluationContext
from advreg.evaluation.examples import Examples
from advreg.evaluation.stage_rows import context_of
from advreg.threat import ThreatModel


@dataclass(frozen=True)
class Known:
    """Verdicts that the run folder, another eps or another verifier has, by example id.

    Attributes:
        broken: attack and ledger that broke an example within this eps; bounds are tried first, as a check of both.
        settled: verdict and method of examples proved at a larger eps, broken at a smaller one, or decided elsewhere.
    """

    broken: Mapping[int, str] = field(default_factory=dict)
    settled: Mapping[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Subject:
    """What all chunks of a certification share.

    Attributes:
        model: the original model.
        graph, exact: its operations, in its own precision and in float64.
        examples: inputs and labels; ids are their rows.
        threat: the threat model.
        seed: of the attacks.
        budget: domains of branch and bound for each margin.
        known: verdicts from elsewhere.
    """

    model: nn.Module
    graph: Graph
    exact: Graph
    examples: Examples
    threat: ThreatModel
    seed: int
    budget: int
    known: Known = field(default_factory=Known)

    @cached_property
    def attack(self) -> EvaluationContext:
        """The fast copy and the settings of the attacks."""
        return context_of(self.model, self.examples, self.threat, self.seed)


class Undecided:
    """A chunk of examples, and what is known about each; positions are places in the chunk.

    Attributes:
        subject: what all chunks share.
        ids, x, y: ids, inputs and labels.
        verdict: ``"proved"``, ``"broken"`` or ``""`` for each example.
        method: what decided it.
        lower: lowest margin bound so far.
        domains, unstable: domains bounded, and ReLUs of open sign.
        cost: forwards and backwards of the model, and passes of bounds, of each example ``(B, 3)``.
    """

    def __init__(self, subject: Subject, ids: Tensor) -> None:
        count = len(ids)
        self.subject, self.ids = subject, ids
        self.x, self.y = subject.examples.x[ids], subject.examples.y[ids]
        self.verdict, self.method = [""] * count, ["open"] * count
        self.lower = torch.full((count,), torch.nan, dtype=torch.float64)
        self.domains, self.unstable = (torch.zeros(count, dtype=torch.int64) for _ in range(2))
        self.cost = torch.zeros(count, 3, dtype=torch.int64)
        self._intervals: dict[tuple[int, bool], list[Interval]] = {}
        self._optimised: dict[int, LowerBound] = {}

    def left(self) -> Tensor:
        """Return the positions of the undecided examples."""
        return torch.tensor([i for i, verdict in enumerate(self.verdict) if not verdict], dtype=torch.int64)

    def decide(self, positions: Tensor, verdict: str, method: str) -> None:
        """Record the verdict of these examples."""
        for i in positions.tolist():
            self.verdict[i], self.method[i] = verdict, method
            for exact in (False, True):
                self._intervals.pop((i, exact), None)

    def graph(self, *, exact: bool) -> Graph:
        """Return the operations, in float64 if ``exact``."""
        return self.subject.exact if exact else self.subject.graph

    def inputs(self, positions: Tensor, *, exact: bool = False) -> InputSet:
        """Return the valid inputs of these examples, in float64 if ``exact``."""
        x = self.x[positions]
        return InputSet(x.double() if exact else x, self.subject.threat)

    def intervals(self, positions: Tensor, *, exact: bool = False) -> list[Interval]:
        """Return tight ranges of every node's value; those of an undecided example are computed once."""
        missing = [i for i in positions.tolist() if (i, exact) not in self._intervals]
        if missing:
            at = torch.tensor(missing)
            found = tight_intervals(self.graph(exact=exact), self.inputs(at, exact=exact))
            for k, i in enumerate(missing):
                self._intervals[i, exact] = [(low[k : k + 1], high[k : k + 1]) for low, high in found]
        each = [self._intervals[i, exact] for i in positions.tolist()]
        return [tuple(torch.cat(ends) for ends in zip(*node, strict=True)) for node in zip(*each, strict=True)]  # type: ignore[misc]

    def optimised(self, position: int, compute: Callable[[], LowerBound]) -> LowerBound:
        """Return the optimised bounds of an example's margins in float64, which several methods need."""
        if position not in self._optimised:
            self._optimised[position] = compute()
        return self._optimised[position]

    @cached_property
    def logits(self) -> Tensor:
        """Logits of the clean inputs in the model's precision ``(B, K)``."""
        self.cost[:, 0] += 1
        return logits_of(self.subject.model, self.x)

    @cached_property
    def slack(self) -> Tensor:
        """What a bound must exceed to cover inference in the model's precision: twice the difference of the logits ``(B,)``."""
        self.cost[:, 2] += 1
        return 2 * (self.logits.double() - self.subject.exact(self.x.double())).abs().amax(1)

"""Branch and bound: ReLUs of open sign are split until every case is proved or one holds a counterexample.

    domains (some signs fixed) -> optimised bounds -> proved ones leave -> the neuron that loosens most is split -> domains

Fixed signs make a ReLU exact, and enter the bound as constraints with multipliers (beta-CROWN).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advreg.bounds.graph import Graph
from advreg.bounds.inputs import InputSet
from advreg.bounds.interval import Interval
from advreg.bounds.linear import Rows, lower_bounds

_BATCH = 64
_STEPS, _LR = 10, 0.2
_ATTACK_STEPS = 10


@dataclass(frozen=True)
class BranchResult:
    """What branch and bound found about one linear function of the logits.

    Attributes:
        proved: whether every domain was bounded above the number.
        lower: the lowest bound of a domain that was not; infinite where all were.
        point: an input ``(1, ...)`` at which it is not positive, None where none was found.
        domains: domains that were bounded.
    """

    proved: bool
    lower: float
    point: Tensor | None
    domains: int


@dataclass(frozen=True)
class _Domains:
    """Domains of one example, one row each.

    Attributes:
        signs: for each activation, +1 or -1 where the sign of its input is fixed, else 0 ``(D, ...)``.
        slopes: slopes of the lines below ``(D, ...)``.
        multipliers: multipliers of the fixed signs, 0 or more ``(D, ...)``.
        lower: bounds ``(D,)``.
        scores: how much each open ReLU loosens the bound ``(D, ...)``.
    """

    signs: dict[int, Tensor]
    slopes: dict[int, Tensor]
    multipliers: dict[int, Tensor]
    lower: Tensor
    scores: dict[int, Tensor]

    def select(self, rows: Tensor) -> _Domains:
        def some(part: dict[int, Tensor]) -> dict[int, Tensor]:
            return {i: value[rows] for i, value in part.items()}

        return _Domains(
            some(self.signs), some(self.slopes), some(self.multipliers), self.lower[rows], some(self.scores)
        )


def branch_and_bound(
    graph: Graph, inputs: InputSet, row: Tensor, intervals: list[Interval], *, budget: int = 1000, above: float = 0.0
) -> BranchResult:
    """Prove that a linear function of the logits is above a number over the valid inputs of one example, or refute it.

    Args:
        graph: the network; its activations must be ReLUs.
        inputs: valid inputs of one example.
        row: coefficients of the logits ``(1, K)``.
        intervals: ranges of every node's value, ``(1, ...)``.
        budget: number of domains to bound at most.
        above: what the function must exceed.

    Returns:
        A `BranchResult`.

    Reference: Wang et al., "Beta-CROWN: efficient bound propagation with per-neuron split constraints for complete and
    incomplete neural network robustness verification", NeurIPS 2021, arXiv:2103.06624.
    """
    search = _Search(graph, inputs, row, intervals, above)
    domains, count = search.root(), 1
    domains = domains.select((domains.lower <= above).nonzero()[:, 0])
    while len(domains.lower) and search.point is None and count < budget and not search.exhausted:
        order = domains.lower.argsort()
        now, later = domains.select(order[:_BATCH]), domains.select(order[_BATCH:])
        children = search.split(now)
        count += len(children.lower)
        children = children.select((children.lower <= above).nonzero()[:, 0])
        domains = _concatenate(children, later)
    proved = not len(domains.lower) and search.point is None and not search.exhausted
    lower = float(domains.lower.min()) if len(domains.lower) else torch.inf
    return BranchResult(proved, lower, search.point, count)


def _concatenate(a: _Domains, b: _Domains) -> _Domains:
    def both(x: dict[int, Tensor], y: dict[int, Tensor]) -> dict[int, Tensor]:
        return {i: torch.cat([x[i], y[i]]) for i in x}

    parts = ((a.signs, b.signs), (a.slopes, b.slopes), (a.multipliers, b.multipliers))
    signs, slopes, multipliers = (both(*pair) for pair in parts)
    return _Domains(signs, slopes, multipliers, torch.cat([a.lower, b.lower]), both(a.scores, b.scores))


class _Search:
    """Bounds and splits the domains of one function of one example, and keeps the first counterexample."""

    def __init__(self, graph: Graph, inputs: InputSet, row: Tensor, intervals: list[Interval], above: float) -> None:
        self.graph, self.inputs = graph, inputs
        self.row, self.above = row, above
        self.intervals = intervals
        self.before = {i: graph.nodes[i].inputs[0] for i in graph.activations}
        self.point: Tensor | None = None
        self.exhausted = False

    def root(self) -> _Domains:
        """Return the whole input set as one domain."""
        low_high = {i: self.intervals[k] for i, k in self.before.items()}
        signs = {i: torch.zeros_like(low) for i, (low, _) in low_high.items()}
        slopes = {i: (high > -low).to(low.dtype) for i, (low, high) in low_high.items()}
        zero = {i: torch.zeros_like(low) for i, (low, _) in low_high.items()}
        return self._bounded(_Domains(signs, slopes, zero, self.row.new_zeros(1), {}))

    def split(self, domains: _Domains) -> _Domains:
        """Return both halves of each domain, split at the ReLU that loosens its bound most."""
        names = list(domains.scores)
        flat = torch.cat([domains.scores[i].flatten(1) for i in names], 1)
        best, where = flat.max(1)
        split = (best > 0).nonzero()[:, 0]
        self.exhausted |= len(split) < len(best)  # nothing is left to split, and the bound was not raised: no proof
        domains, where = domains.select(split), where[split]
        if not len(where):
            return domains
        halves = []
        for sign in (1.0, -1.0):
            signs = {i: value.clone() for i, value in domains.signs.items()}
            begin = 0
            for i in names:
                size = signs[i][0].numel()
                mine = ((where >= begin) & (where < begin + size)).nonzero()[:, 0]
                signs[i].view(len(where), size)[mine, where[mine] - begin] = sign
                begin += size
            halves.append(replace(domains, signs=signs))
        return self._bounded(_concatenate(*halves))

    def _bounded(self, domains: _Domains) -> _Domains:
        """Return the domains with optimised slopes and multipliers, their bounds and scores."""
        count = len(domains.lower)
        intervals = self._clamped(domains.signs)
        inputs = self.inputs.select(torch.zeros(count, dtype=torch.int64, device=self.row.device))
        rows = Rows(self.row.expand(count, -1), torch.arange(count, device=self.row.device))
        slopes = {i: value.clone().requires_grad_() for i, value in domains.slopes.items()}
        multipliers = {i: value.clone().requires_grad_() for i, value in domains.multipliers.items()}
        optimizer = torch.optim.Adam([*slopes.values(), *multipliers.values()], lr=_LR)
        best = self.row.new_full((count,), -torch.inf)
        trail: dict[int, Tensor] = {}
        for _ in range(_STEPS):
            optimizer.zero_grad()
            with torch.enable_grad():
                pulls = {k: -domains.signs[i] * multipliers[i] for i, k in self.before.items()}
                end = len(self.graph.nodes) - 1
                found = lower_bounds(self.graph, end, rows, intervals, inputs, slopes=slopes, pulls=pulls, trail=trail)
                torch.autograd.backward(-found.value.sum())
            best = best.maximum(found.value.detach())
            if bool((best > self.above).all()):
                break
            optimizer.step()
            with torch.no_grad():
                for slope in slopes.values():
                    slope.clamp_(0.0, 1.0)
                for multiplier in multipliers.values():
                    multiplier.clamp_(min=0.0)
        self._look_at_corners(trail[0], inputs)
        kept, pulled = ({i: value.detach() for i, value in part.items()} for part in (slopes, multipliers))
        return _Domains(domains.signs, kept, pulled, best, self._scores(trail, intervals, domains.signs))

    def _clamped(self, signs: dict[int, Tensor]) -> list[Interval]:
        """Return the ranges of each domain: those of the example, cut at 0 where a sign is fixed."""
        count = len(next(iter(signs.values())))
        found = [
            (low.expand(count, *low.shape[1:]), high.expand(count, *high.shape[1:])) for low, high in self.intervals
        ]
        for i, k in self.before.items():
            low, high = found[k]
            found[k] = (
                torch.where(signs[i] > 0, low.clamp_min(0.0), low),
                torch.where(signs[i] < 0, high.clamp_max(0.0), high),
            )
        return found

    def _scores(
        self, trail: dict[int, Tensor], intervals: list[Interval], signs: dict[int, Tensor]
    ) -> dict[int, Tensor]:
        """Return how far apart the two lines of each open ReLU leave the bound, weighted by its coefficient."""
        scores = {}
        for i, k in self.before.items():
            low, high = intervals[k]
            is_open = (low < 0) & (high > 0) & (signs[i] == 0)
            gap = -low * high / (high - low).clamp_min(1e-30)
            size = (-trail[i]).clamp_min(0.0) * gap + trail[i].clamp_min(0.0) * torch.minimum(high, -low) / 2
            scores[i] = torch.where(is_open, size + 1e-12, 0.0)
        return scores

    def _look_at_corners(self, coefficients: Tensor, inputs: InputSet) -> None:
        """Keep a valid input at which the function is not above: gradient steps from where each linear bound is least."""
        if self.point is not None:
            return
        threat, x = inputs.threat, inputs.x
        point = threat.project(x - threat.width * threat.steepest(coefficients, x), x)
        for _ in range(_ATTACK_STEPS):
            with torch.enable_grad():
                leaf = point.detach().requires_grad_()
                value = (self.graph(leaf) * self.row).sum(1)
                (grad,) = torch.autograd.grad(value.sum(), leaf)
            if bool((value <= self.above).any()):
                self.point = leaf.detach()[value.argmin()][None]
                return
            point = threat.project(leaf.detach() - threat.radii(x) / 4 * threat.steepest(grad, leaf.detach()), x)

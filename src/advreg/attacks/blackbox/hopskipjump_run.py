"""The steps of HopSkipJump: movement along a decision boundary with labels only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg import example_rng
from advreg.attacks.model import Model, ProxyModel, original, query_model
from advreg.attacks.result import AttackResult
from advreg.attacks.scoreboard import Scoreboard
from advreg.errors import ModelError
from advreg.objectives import has_finite_logits
from advreg.threat import broadcast_per_example

_CHUNK = 16
"""Directions in one forward; a constant, so that draws do not depend on the batch."""
_LANE = 1 << 20
"""Number of random streams reserved for one step."""
_HALVINGS = 10
"""How often a step is halved that left the adversarial side."""


@dataclass(frozen=True)
class LabelQueries(ProxyModel):
    """A model of which only the label is used: labels or scores in, one-hot scores out.

    Labels beyond the number of classes in the data count as one more class.

    Example:
        >>> LabelQueries(lambda x: x.argmax(1), 2)(torch.tensor([[0.1, 0.7, 0.2], [0.9, 0.0, 0.1]])).tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """

    model: Model
    classes: int
    score_only: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        """Return one-hot predictions ``(B, K)``; NaN in rows with scores that are not finite."""
        z = query_model(self.model, x)
        if not isinstance(z, Tensor) or z.ndim not in (1, 2) or len(z) != len(x):
            shape = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ModelError(f"the model returned {shape} for {len(x)} inputs; return labels (B,) or scores (B, K)")
        if z.ndim == 2:
            votes = F.one_hot(z.argmax(1), z.shape[1]).float()
            return votes.masked_fill(~has_finite_logits(z)[:, None], math.nan)
        if z.is_floating_point() or int(z.min()) < 0:
            raise ModelError(f"the model returned {z.dtype} from {float(z.min()):g}; return labels 0 to classes-1")
        return F.one_hot(z.long().clamp_max(self.classes), self.classes + 1).float()

    @property
    def original(self) -> LabelQueries:
        """The labels of the original model; this object itself, unless the model is a fast copy."""
        model = original(self.model)
        return self if model is self.model else replace(self, model=model)


class HopSkipJumpRun:
    """One attempt on a batch: every row has its own iterate and query budget, and leaves independently.

    Attributes:
        at: iterate of each row, on the adversarial side of the boundary: ``(B, ...)``.
        closest: the nearest adversarial point so far, the clean point if there is none.
        active: rows that continue.
        bits: bisections down to a share ``n^-1.5`` (l2) or ``n^-2`` (linf) of the line, n the number of values.
    """

    def __init__(self, board: Scoreboard, ids: Tensor, seed: int, queries: int, early_stop: bool) -> None:
        self.board, self.ids = board, ids
        self.seed, self.queries = seed, queries
        self.early_stop = early_stop
        self.x, self.threat = board.x, board.threat
        self.at, self.closest = board.x.clone(), board.x.clone()
        self.distance = torch.full((len(board.x),), torch.inf, dtype=torch.float64, device=board.x.device)
        self.active = torch.ones_like(board.broken)
        power = {"l2": 1.5, "linf": 2.0}[board.threat.norm]
        self.bits = max(math.ceil(power * math.log2(board.x[0].numel())), 1)  # bisections down to a share n^-power

    def start_at_random(self, tries: int) -> None:
        """Start at the first of up to ``tries`` uniform draws from the box that has another class."""
        found = ~self.active
        low, _ = self.threat.box
        for k in range(tries):
            rows = self._active_rows(1 + self.bits)
            rows = rows[~found[rows]]
            if not len(rows):
                break
            u = example_rng.uniform(self.ids[rows], tuple(self.x.shape[1:]), self.seed, k, self.x.dtype)
            found[rows] = self._move_if_across(rows, low + self.threat.width * u)
        self._bisect_found(found)

    def start_at(self, starts: Tensor) -> None:
        """Start at given points ``(B, ...)``; a row stops if its point has the same class."""
        rows, found = self._active_rows(1 + self.bits), ~self.active
        found[rows] = self._move_if_across(rows, starts[rows].to(self.x))
        self._bisect_found(found)

    def attack(self, samples: int) -> AttackResult:
        """Step until the budgets are spent, verify the nearest points, and return the result."""
        step, count = 1, samples
        while len(rows := self._active_rows(count + _HALVINGS + self.bits)):
            normal = self._estimate_normal(rows, step, count)
            self._bisect(*self._step(rows, normal, step))
            step, count = step + 1, int(samples * (step + 1) ** 0.5)
        rows = (~self.board.broken).nonzero()[:, 0]
        if len(rows):
            x, closest = self.x[rows], self.closest[rows]
            threat = self.threat.select(rows)
            inside = broadcast_per_example(threat.contains(closest, x), x)
            self.board.submit(rows, torch.where(inside, closest, threat.project(closest, x)))
        return self.board.result()

    def _active_rows(self, cost: int) -> Tensor:
        """Return the active rows with a budget that covers this cost; the others stop."""
        self.active &= self.board.cost[:, 0] + cost <= self.queries
        return self.active.nonzero()[:, 0]

    @torch.no_grad()
    def _is_across(self, rows: Tensor, points: Tensor) -> Tensor:
        """Return which points ``(R, count, ...)`` are on the adversarial side: ``(R, count)``."""
        count = points.shape[1]
        y = self.board.y[rows].repeat_interleave(count, 0)
        fooled = self.board.spec.fooled(query_model(self.board.spec.model, points.flatten(0, 1)), y)
        self.board.cost[rows, 0] += count
        return fooled.view(len(rows), count)

    def _move_if_across(self, rows: Tensor, points: Tensor) -> Tensor:
        """Move each row to its point if that is on the adversarial side, and return which rows moved."""
        across = self._is_across(rows, points[:, None])[:, 0]
        self.at[rows[across]] = points[across]
        return across

    def _bisect_found(self, found: Tensor) -> None:
        self.active &= found
        rows = self.active.nonzero()[:, 0]
        self._bisect(rows, self.at[rows])

    def _bisect(self, rows: Tensor, far: Tensor) -> None:
        """Bisect from ``far`` towards the clean point to the boundary, and keep the nearest point."""
        if not len(rows):
            return
        near, reach = torch.zeros(len(rows)).to(far), torch.ones(len(rows)).to(far)
        for _ in range(self.bits):
            middle = (near + reach) / 2
            across = self._is_across(rows, self._between(rows, far, middle)[:, None])[:, 0]
            near, reach = torch.where(across, near, middle), torch.where(across, middle, reach)
        point = torch.where(broadcast_per_example(reach == 1, far), far, self._between(rows, far, reach))
        self.at[rows] = point
        distance = self.threat.select(rows).distance(point, self.x[rows])
        nearer = distance < self.distance[rows]
        self.closest[rows[nearer]], self.distance[rows[nearer]] = point[nearer], distance[nearer]
        if self.early_stop:
            self._retire(rows[nearer])

    def _between(self, rows: Tensor, far: Tensor, share: Tensor) -> Tensor:
        """Return the nearest point to ``far`` at this share of its distance: on the line (l2), or clipped (linf)."""
        x, wide = self.x[rows], broadcast_per_example(share, far)
        if self.threat.norm == "l2":
            return x + wide * (far - x)
        radius = wide * broadcast_per_example((far - x).flatten(1).abs().amax(1), far)
        return far.maximum(x - radius).minimum(x + radius)

    def _retire(self, rows: Tensor) -> None:
        """Verify the points that came inside the ball; confirmed rows stop."""
        inside = self.threat.select(rows).contains(self.closest[rows], self.x[rows])
        arrived = rows[inside]
        if len(arrived):
            confirmed = self.board.submit(arrived, self.closest[arrived])
            self.active[arrived[confirmed]] = False

    def _estimate_normal(self, rows: Tensor, step: int, count: int) -> Tensor:
        """Estimate the boundary's normal at each row from ``count`` labels around it, with unit norm."""
        at = self.at[rows]
        low, high = self.threat.box
        width = self.threat.width
        apart = self.threat.select(rows).distance(at, self.x[rows]).to(at.dtype)
        probe = torch.full_like(apart, 0.1 * width) if step == 1 else apart / at[0].numel()
        probe = broadcast_per_example(probe.clamp_min(1e-12 * width), at)
        votes = torch.zeros_like(at)
        total, balance = torch.zeros_like(at), torch.zeros_like(apart)
        for done in range(0, count, _CHUNK):
            shape = (min(_CHUNK, count - done), *at.shape[1:])
            points = (at[:, None] + probe[:, None] * self._directions(rows, shape, step * _LANE + done)).clamp(
                low, high
            )
            side = 2 * self._is_across(rows, points).to(at.dtype) - 1
            moved = (points - at[:, None]) / probe[:, None]
            votes = votes + (side.view(*side.shape, *[1] * (at.ndim - 1)) * moved).sum(1)
            total, balance = total + moved.sum(1), balance + side.sum(1) / count
        even = broadcast_per_example(
            torch.where(balance.abs() < 1, balance, 0.0), at
        )  # one-sided votes have no baseline
        return self.threat.select(rows).steepest(votes - even * total)

    def _directions(self, rows: Tensor, shape: tuple[int, ...], stream: int) -> Tensor:
        """Draw directions of Euclidean length 1, ``(R, *shape)``."""
        ids, dtype = self.ids[rows], self.x.dtype
        if self.threat.norm == "l2":
            drawn = example_rng.normal(ids, shape, self.seed, stream, dtype)
        else:
            drawn = 2 * example_rng.uniform(ids, shape, self.seed, stream, dtype) - 1
        length: Tensor = drawn.flatten(2).norm(dim=2)
        return drawn / length.view(*length.shape, *[1] * (drawn.ndim - 2)).clamp_min(1e-12)

    def _step(self, rows: Tensor, normal: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Step along the normal, halved until the point is adversarial; return the successful rows and their points."""
        at, (low, high) = self.at[rows], self.threat.box
        length = self.threat.select(rows).distance(at, self.x[rows]).to(at.dtype) / step**0.5
        across, far = torch.zeros_like(rows, dtype=torch.bool), at.clone()
        for _ in range(_HALVINGS):
            trying = (~across).nonzero()[:, 0]
            if not len(trying):
                break
            moved = at[trying] + broadcast_per_example(length[trying], at) * normal[trying]
            far[trying] = moved.clamp(low, high)
            across[trying] = self._is_across(rows[trying], far[trying][:, None])[:, 0]
            length = length / 2
        return rows[across], far[across]

"""Walking along a decision boundary with labels only: the steps that `hopskipjump` is made of."""

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

_TOGETHER = 16  # directions asked in one forward; a constant, so that draws do not depend on the batch
_LANE = 1 << 20  # streams kept for one step
_HALVINGS = 10  # of a step that left the adversarial side


@dataclass(frozen=True)
class LabelQueries(ProxyModel):
    """A model of which only the label is used: labels or scores in, one-hot scores out.

    Labels beyond the classes, which are those of the data, count as one more class.

    Example:
        >>> LabelQueries(lambda x: x.argmax(1), 2)(torch.tensor([[0.1, 0.7, 0.2], [0.9, 0.0, 0.1]])).tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """

    model: Model
    classes: int
    score_only: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``(B, K)``: 1 for the class the model decides for; NaN in rows whose scores are not finite."""
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
        """The labels of the model that judges: these themselves, where it is the same model."""
        judge = original(self.model)
        return self if judge is self.model else replace(self, model=judge)


class HopSkipJumpRun:
    """One attempt on a batch: every row has a point of another class, a budget of its own, and leaves on its own.

    Attributes:
        at: where each row is: ``(B, ...)``, on the adversarial side of the boundary.
        nearest: the nearest such point so far, the clean one where there is none.
        working: which rows go on.
    """

    def __init__(self, board: Scoreboard, ids: Tensor, seed: int, queries: int, early_stop: bool) -> None:
        self.board, self.ids, self.seed, self.queries, self.early_stop = board, ids, seed, queries, early_stop
        self.x, self.threat = board.x, board.threat
        self.at, self.nearest = board.x.clone(), board.x.clone()
        self.distance = torch.full((len(board.x),), torch.inf, dtype=torch.float64, device=board.x.device)
        self.working = torch.ones_like(board.broken)
        power = {"l2": 1.5, "linf": 2.0}[board.threat.norm]
        self.bits = max(math.ceil(power * math.log2(board.x[0].numel())), 1)  # bisections down to a share n^-power

    def begin(self, tries: int) -> None:
        """Look for a point of another class among points drawn uniformly from the box."""
        found = ~self.working
        low, _ = self.threat.box
        for k in range(tries):
            rows = self._affording(1 + self.bits)
            rows = rows[~found[rows]]
            if not len(rows):
                break
            u = example_rng.uniform(self.ids[rows], tuple(self.x.shape[1:]), self.seed, k, self.x.dtype)
            found[rows] = self._arrive(rows, low + self.threat.width * u)
        self._descend(found)

    def begin_at(self, starts: Tensor) -> None:
        """Begin at given points; a row whose point is of the same class stays behind."""
        rows, found = self._affording(1 + self.bits), ~self.working
        found[rows] = self._arrive(rows, starts[rows].to(self.x))
        self._descend(found)

    def run(self, samples: int) -> AttackResult:
        """Step until the budgets are spent, then let the judge see the nearest points."""
        step, count = 1, samples
        while len(rows := self._affording(count + _HALVINGS + self.bits)):
            normal = self._normal(rows, step, count)
            self._bisect(*self._stepped(rows, normal, step))
            step, count = step + 1, int(samples * (step + 1) ** 0.5)
        rows = (~self.board.broken).nonzero()[:, 0]
        if len(rows):
            x, nearest, threat = self.x[rows], self.nearest[rows], self.threat.select(rows)
            inside = broadcast_per_example(threat.contains(nearest, x), x)
            self.board.submit(rows, torch.where(inside, nearest, threat.project(nearest, x)))
        return self.board.result()

    def _affording(self, cost: int) -> Tensor:
        """Return the rows at work that can pay for this; the others stop."""
        self.working &= self.board.cost[:, 0] + cost <= self.queries
        return self.working.nonzero()[:, 0]

    @torch.no_grad()
    def _ask(self, rows: Tensor, points: Tensor) -> Tensor:
        """Say of points ``(R, count, ...)`` which are on the adversarial side: ``(R, count)``."""
        count = points.shape[1]
        y = self.board.y[rows].repeat_interleave(count, 0)
        fooled = self.board.ask.fooled(query_model(self.board.ask.model, points.flatten(0, 1)), y)
        self.board.cost[rows, 0] += count
        return fooled.view(len(rows), count)

    def _arrive(self, rows: Tensor, points: Tensor) -> Tensor:
        """Move the rows whose point is on the adversarial side there, and say which they are."""
        across = self._ask(rows, points[:, None])[:, 0]
        self.at[rows[across]] = points[across]
        return across

    def _descend(self, found: Tensor) -> None:
        self.working &= found
        rows = self.working.nonzero()[:, 0]
        self._bisect(rows, self.at[rows])

    def _bisect(self, rows: Tensor, far: Tensor) -> None:
        """Go from ``far`` towards the clean point as far as the boundary, and remember what is nearest."""
        if not len(rows):
            return
        near, reach = torch.zeros(len(rows)).to(far), torch.ones(len(rows)).to(far)
        for _ in range(self.bits):
            middle = (near + reach) / 2
            across = self._ask(rows, self._between(rows, far, middle)[:, None])[:, 0]
            near, reach = torch.where(across, near, middle), torch.where(across, middle, reach)
        point = torch.where(broadcast_per_example(reach == 1, far), far, self._between(rows, far, reach))
        self.at[rows] = point
        distance = self.threat.select(rows).distance(point, self.x[rows])
        nearer = distance < self.distance[rows]
        self.nearest[rows[nearer]], self.distance[rows[nearer]] = point[nearer], distance[nearer]
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
        """Let the judge see the points that came inside the ball; those confirmed leave."""
        inside = self.threat.select(rows).contains(self.nearest[rows], self.x[rows])
        arrived = rows[inside]
        if len(arrived):
            confirmed = self.board.submit(arrived, self.nearest[arrived])
            self.working[arrived[confirmed]] = False

    def _normal(self, rows: Tensor, step: int, count: int) -> Tensor:
        """Estimate the boundary's normal at each row from ``count`` labels around it, as a step's direction."""
        at, (low, high), width = self.at[rows], self.threat.box, self.threat.width
        apart = self.threat.select(rows).distance(at, self.x[rows]).to(at.dtype)
        probe = torch.full_like(apart, 0.1 * width) if step == 1 else apart / at[0].numel()
        probe = broadcast_per_example(probe.clamp_min(1e-12 * width), at)
        votes = torch.zeros_like(at)
        total, balance = torch.zeros_like(at), torch.zeros_like(apart)
        for done in range(0, count, _TOGETHER):
            shape = (min(_TOGETHER, count - done), *at.shape[1:])
            points = (at[:, None] + probe[:, None] * self._directions(rows, shape, step * _LANE + done)).clamp(
                low, high
            )
            side = 2 * self._ask(rows, points).to(at.dtype) - 1
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

    def _stepped(self, rows: Tensor, normal: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Step along the normal, half as far until the point is across: the rows that made it, and where they are."""
        at, (low, high) = self.at[rows], self.threat.box
        length = self.threat.select(rows).distance(at, self.x[rows]).to(at.dtype) / step**0.5
        across, far = torch.zeros_like(rows, dtype=torch.bool), at.clone()
        for _ in range(_HALVINGS):
            trying = (~across).nonzero()[:, 0]
            if not len(trying):
                break
            moved = at[trying] + broadcast_per_example(length[trying], at) * normal[trying]
            far[trying] = moved.clamp(low, high)
            across[trying] = self._ask(rows[trying], far[trying][:, None])[:, 0]
            length = length / 2
        return rows[across], far[across]

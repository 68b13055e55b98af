"""Attacks on rows with rules against exact answers: every allowed row enumerated, and mixed-integer programs."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from advreg import ThreatModel
from advreg.attacks.tabular import capgd, mutate
from advreg.constraints import FeatureRules
from advreg.objectives import margin

FEATURES = 8
THREATS = [("l1", 2.0), ("l2", 1.5), ("linf", 1.0), ("l1", 1.0)]


@functools.cache
def table() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network, and 60 rows of three levels that it classifies correctly, with labels."""
    g = torch.Generator().manual_seed(0)
    rows = torch.randint(-1, 2, (600, FEATURES), generator=g).float()
    score = torch.relu(rows @ torch.randn(FEATURES, 24, generator=g)) @ torch.randn(24, generator=g)
    y = (score > score.median()).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(120):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(rows[:500]), y[:500]).backward()
            optimizer.step()
    net.eval()
    right = (net(rows[500:]).argmax(1) == y[500:]).nonzero()[:, 0][:60] + 500
    return net, rows[right], y[right]


class Steps(nn.Module):
    """Scores of a network without any gradient, as of trees."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        return (self.net(rows).detach() * 2).round()


def level_threat(norm: str, eps: float) -> ThreatModel:
    rules = FeatureRules(integer=tuple(range(FEATURES)), one_sided=(0, 0, 1) + (0,) * (FEATURES - 3))
    return ThreatModel(norm, eps, (-1.0, 1.0), scale=[0.0] + [1.0] * (FEATURES - 1), rules=rules)  # type: ignore[arg-type]


def breakable(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float) -> Tensor:
    """Return which rows any allowed row breaks, by trying all ``3^F``."""
    every = torch.tensor(list(itertools.product([-1.0, 0.0, 1.0], repeat=FEATURES)))
    classes, order = model(every).argmax(1), {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    found = []
    for row, label in zip(x, y, strict=True):
        change = every - row
        inside = np.linalg.norm(change.numpy(), ord=order, axis=1) <= eps + 1e-9
        allowed = torch.from_numpy(inside) & (change[:, 0] == 0) & (change[:, 2] >= 0)
        found.append(bool((classes[allowed] != label).any()))
    return torch.tensor(found)


@pytest.mark.parametrize(("norm", "eps"), THREATS)
def test_mutate_breaks_exactly_the_rows_that_enumeration_breaks(norm: str, eps: float) -> None:
    model, x, y = table()
    exact = breakable(model, x, y, norm, eps)
    assert torch.equal(mutate(model, x, y, level_threat(norm, eps), queries=2000).broken, exact)
    scores = Steps(model)
    right = scores(x).argmax(1) == y
    found = mutate(scores, x[right], y[right], level_threat(norm, eps), queries=2000)
    assert torch.equal(found.broken, breakable(scores, x[right], y[right], norm, eps))


@pytest.mark.parametrize(("norm", "eps"), THREATS)
def test_capgd_never_beats_enumeration_and_comes_near(norm: str, eps: float) -> None:
    model, x, y = table()
    threat = level_threat(norm, eps)
    exact, found = breakable(model, x, y, norm, eps), capgd(model, x, y, threat).broken
    assert not bool((found & ~exact).any())
    assert int(found.sum()) >= 0.8 * int(exact.sum())


NAMES = ("a", "b", "n", "m", "red", "green", "blue")
LOW, HIGH = np.array([-5, -5, 0, 0, 0, 0, 0.0]), np.array([5, 5, 9, 9, 1, 1, 1.0])
SCALE = np.array([1.0, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0])
RULES = FeatureRules(integer=(2, 3), groups=((4, 5, 6),), relations=("b <= a + 1", "n + m <= 12"), names=NAMES)


def optimum(w: np.ndarray, x: np.ndarray, norm: str, eps: float) -> float:
    """Return the largest ``w . a`` over allowed rows ``a``: variables a and the size of each change in units."""
    n, eye, none = len(w), np.eye(len(w)), np.zeros((len(w), len(w)))
    above = LinearConstraint(np.hstack([eye, -np.diag(SCALE)]), -np.inf, x)
    below = LinearConstraint(np.hstack([eye, np.diag(SCALE)]), x, np.inf)
    rows = np.zeros((3, 2 * n))
    rows[0, [0, 1]], rows[1, [2, 3]], rows[2, 4:7] = [-1, 1], [1, 1], 1
    budget = np.concatenate([np.zeros(n), np.ones(n)])[None] if norm == "l1" else np.hstack([none, eye])
    found = milp(
        -np.concatenate([w, np.zeros(n)]),
        integrality=np.concatenate([[0, 0, 1, 1, 1, 1, 1], np.zeros(n)]),
        bounds=Bounds(np.concatenate([LOW, np.zeros(n)]), np.concatenate([HIGH, np.full(n, np.inf)])),
        constraints=[
            above,
            below,
            LinearConstraint(rows, [-np.inf, -np.inf, 1], [1, 12, 1]),
            LinearConstraint(budget, -np.inf, eps),
        ],
    )
    return -float(found.fun)


def mixed_rows(n: int) -> tuple[Tensor, Tensor]:
    """Return rows that keep the rules, and a linear model for each."""
    g = np.random.default_rng(3)
    rows = LOW + (HIGH - LOW) * g.random((n, 7))
    rows[:, 1] = np.minimum(rows[:, 1], rows[:, 0] + 1)
    rows[:, 2] = rows[:, 2].round()
    rows[:, 3] = np.minimum(rows[:, 3].round(), 12 - rows[:, 2])
    rows[:, 4:] = np.eye(3)[g.integers(0, 3, n)]
    return torch.tensor(rows), torch.tensor(g.standard_normal((n, 7)))


class Slopes(nn.Module):
    """Two classes with a linear margin; the slope of each row is in seven more columns, which may not change."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        z = (rows[:, :7] * rows[:, 7:]).sum(1)
        return torch.stack([torch.zeros_like(z) + 1e3, z], 1)


def shares_of_optimum(norm: str, eps: float, n: int, queries: int) -> Tensor:
    """Return the gain of capgd and of mutate as a share of the optimum ``(n, 2)``."""
    x, w = mixed_rows(n)
    ends = (np.concatenate([LOW, np.full(7, -9.0)]), np.concatenate([HIGH, np.full(7, 9.0)]))
    threat = ThreatModel(norm, eps, ends, scale=np.concatenate([SCALE, np.zeros(7)]), rules=RULES)  # type: ignore[arg-type]
    rows, y = torch.cat([x, w], 1), torch.zeros(n, dtype=torch.long)
    best = torch.tensor([optimum(w[i].numpy(), x[i].numpy(), norm, eps) for i in range(n)]) - (x * w).sum(1)
    gains = [
        ((attack(Slopes(), rows, y, threat, objective=margin, early_stop=False).x_adv[:, :7] - x) * w).sum(1)
        for attack in (capgd, functools.partial(mutate, queries=queries))
    ]
    return torch.stack(gains, 1) / best[:, None].clamp_min(1e-9)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 1.0), ("l1", 2.0)])
def test_no_attack_gains_more_than_the_mixed_integer_optimum(norm: str, eps: float) -> None:
    share = shares_of_optimum(norm, eps, 30, 1200)
    assert float(share.max()) <= 1 + 1e-5  # relations hold up to 1e-6 of their size
    assert float((share.amax(1) >= 0.99).double().mean()) >= 0.9

"""The least value of a linear function over ball and box: against linear programs, closed forms and many points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from advreg import ThreatModel
from advreg.attacks.search import region_of


def problem(seed: int, n: int = 6) -> tuple[Tensor, Tensor]:
    """Return coefficients and points near the faces of the box, ``(8, n)`` each."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(8, n, generator=generator, dtype=torch.float64)
    return rows, torch.rand(8, n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.7, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_minimum_over_l1_ball_and_box_is_the_linear_program(seed: int, eps: float) -> None:
    rows, x = problem(seed)
    found = ThreatModel("l1", eps).minimise(rows, x)
    for a, point, value in zip(rows.numpy(), x.numpy(), found.tolist(), strict=True):
        n = len(a)  # up and down moves, each 0 or more
        room = [(0, 1 - v) for v in point] + [(0, v) for v in point]
        solved = linprog(np.concatenate([a, -a]), A_ub=np.ones((1, 2 * n)), b_ub=[eps], bounds=room)
        assert value == pytest.approx(a @ point + solved.fun, abs=1e-7)


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.4])
def test_minimum_over_linf_ball_and_box_is_at_a_corner(eps: float) -> None:
    rows, x = problem(0)
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    expected = torch.where(rows > 0, rows * low, rows * high).sum(1)
    assert torch.allclose(ThreatModel("linf", eps).minimise(rows, x), expected, atol=1e-9)


@pytest.mark.parametrize("eps", [0.0, 0.05, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_minimum_over_l2_ball_and_box_is_what_projected_descent_reaches(seed: int, eps: float) -> None:
    rows, x = problem(seed)
    threat = ThreatModel("l2", eps)
    region, point = region_of(threat, x), x.clone()
    for k in range(4000):
        point = region.project(point - rows / (k + 1) ** 0.5)
    reached = (rows * point).sum(1)
    found = threat.minimise(rows, x)
    assert bool((found <= reached + 1e-9).all())
    assert torch.allclose(found, reached, atol=2e-4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-2.0, 3.0)])
def test_minimum_is_below_every_valid_point(norm: str, dtype: torch.dtype, box: tuple[float, float]) -> None:
    rows, x = (t.to(dtype) for t in problem(4))
    threat = ThreatModel(norm, 0.3, box)
    least = threat.minimise(rows, x)
    for seed in range(200):
        point = threat.random_start(x, torch.arange(len(x)), seed)
        assert bool(((rows * point).sum(1) >= least - 1e-5).all())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_interval_contains_every_valid_point(norm: str, dtype: torch.dtype) -> None:
    _, x = (t.to(dtype) for t in problem(5))
    threat = ThreatModel(norm, 8 / 255)
    low, high = threat.interval(x)
    assert bool(((low >= 0) & (high <= 1)).all())
    for seed in range(200):
        point = threat.project(threat.random_start(x, torch.arange(len(x)), seed) * 1.5 - 0.2, x)
        assert bool(((point >= low) & (point <= high)).all())

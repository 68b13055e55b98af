"""Laws of the projections, by random search for a counterexample."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advreg import ThreatModel
from advreg.threat import NORMS

EPS = {"linf": 0.2, "l2": 0.9, "l1": 2.5}


def draw(seed: int, dtype: torch.dtype, reach: float, shape: tuple[int, ...] = (16, 1, 5, 6)):
    """Return clean points, some coordinates at the faces of the box, and points around them."""
    g = torch.Generator().manual_seed(seed)
    x = (torch.rand(shape, generator=g, dtype=dtype) * 1.4 - 0.2).clamp(0, 1)
    return x, x + reach * torch.randn(shape, generator=g, dtype=dtype)


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), reach=st.sampled_from([0.01, 0.2, 1.0, 30.0]))
def test_projection_is_feasible_idempotent_and_nearest(norm: str, seed: int, reach: float) -> None:
    threat = ThreatModel(norm, EPS[norm])
    x, a = draw(seed, torch.float64, reach)
    p = threat.project(a, x)
    assert threat.contains(p, x).all()
    torch.testing.assert_close(threat.project(p, x), p, atol=1e-12, rtol=0)
    q = threat.random_start(x, torch.arange(len(x)) + seed, seed)
    for feasible in (x, q, threat.project(x + (q - x) * 50, x)):
        angle = ((a - p) * (feasible - p)).flatten(1).sum(1)  # the variational inequality of a nearest point
        assert float(angle.max()) <= 1e-9 * max(1.0, reach)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_keeps_inside_points(norm: str, dtype: torch.dtype) -> None:
    threat = ThreatModel(norm, EPS[norm])
    x, _ = draw(3, dtype, 1.0)
    inside = x + 0.999 * (threat.random_start(x, torch.arange(len(x)), 1) - x)
    torch.testing.assert_close(
        threat.project(inside, x), inside, atol=1e-7 if dtype is torch.float32 else 1e-15, rtol=0
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [8 / 255, 1e-3, 0.3, "per example"])
def test_float32_points_are_inside_when_measured_in_float64(norm: str, eps: float | str) -> None:
    radius = torch.linspace(0.0, 0.9, 64) if eps == "per example" else eps
    threat = ThreatModel(norm, radius)
    x, a = draw(7, torch.float32, 2.0, (64, 3, 32, 32))
    assert threat.contains(threat.project(a, x), x, tol=0.0).all()
    assert threat.contains(threat.random_start(x, torch.arange(64), 0), x, tol=0.0).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [10.0, 1e6, 1e30])
def test_wide_box_does_not_reduce_the_radius(norm: str, width: float) -> None:
    threat = ThreatModel(norm, EPS[norm], box=(-width, width))
    x, a = draw(7, torch.float32, 2.0, (64, 3, 32, 32))
    for scale in (1.0, 1e-3, min(width, 100.0)):
        p = threat.project(scale * x + a, scale * x)
        assert threat.contains(p, scale * x, tol=0.0).all()
        assert (threat.distance(p, scale * x) > 0.99 * EPS[norm]).all()


def test_l2_projection_meets_the_sphere_and_l1_the_face() -> None:
    x, a = draw(5, torch.float64, 5.0)
    for norm in ("l2", "l1"):
        threat = ThreatModel(norm, 0.5)
        distance = threat.distance(threat.project(a, x), x)
        torch.testing.assert_close(distance, torch.full_like(distance, 0.5), atol=1e-9, rtol=0)


def test_exact_l1_projection_is_nearer_than_ball_then_clip() -> None:
    x, a = draw(11, torch.float64, 1.0)
    threat, unboxed = ThreatModel("l1", 3.0), ThreatModel("l1", 3.0, box=(-100.0, 100.0))
    exact, shortcut = threat.project(a, x), unboxed.project(a, x).clamp(0, 1)
    nearer = (a - exact).flatten(1).norm(dim=1) < (a - shortcut).flatten(1).norm(dim=1) - 1e-6
    assert nearer.float().mean() > 0.9


def test_projection_of_a_row_does_not_depend_on_the_batch() -> None:
    for reach in (0.01, 0.2, 1.0, 30.0):
        x, a = draw(13, torch.float64, reach, (64, 1, 28, 28))
        for eps in (0.5, 2.0, 5.0):
            threat = ThreatModel("l2", eps)
            alone = torch.cat([threat.project(a[i : i + 1], x[i : i + 1]) for i in range(len(x))])
            torch.testing.assert_close(alone, threat.project(a, x), atol=1e-14, rtol=0)

"""The projection onto a plane inside a box equals a linear program's, or a root's, in every norm."""

from __future__ import annotations

import pytest
import torch

from advreg.attacks.minimum_norm.hyperplane_projection import onto_plane
from advreg.threat import NORMS

from .oracles import to_plane

ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}


def case(seed: int, rows: int = 12, n: int = 7) -> tuple[torch.Tensor, ...]:
    """Return points with some coordinates at the box, normals with some zeros, and values of either sign."""
    g = torch.Generator().manual_seed(seed)
    x = (torch.rand(rows, n, generator=g, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    w = torch.randn(rows, n, generator=g, dtype=torch.float64)
    w[torch.rand(rows, n, generator=g) < 0.15] = 0.0
    return x, w, torch.randn(rows, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(3))
def test_projection_is_feasible_and_nearest(norm: str, seed: int) -> None:
    x, w, value = case(seed)
    d = onto_plane(norm, w, value, -x, 1 - x)
    assert ((x + d >= -1e-15) & (x + d <= 1 + 1e-15)).all()
    exact = [to_plane(norm, w[i].numpy(), float(value[i]), x[i].numpy()) for i in range(len(x))]
    exact = torch.tensor(exact, dtype=torch.float64)
    reached = torch.isfinite(exact)
    assert int(reached.sum()) >= 6
    residue = value + (w * d).sum(1)
    torch.testing.assert_close(residue[reached], torch.zeros_like(residue[reached]), atol=1e-12, rtol=0)
    size = torch.linalg.vector_norm(d, ord=ORDER[norm], dim=1)
    torch.testing.assert_close(size[reached], exact[reached], atol=1e-7, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_plane_beyond_the_box_is_approached_up_to_the_box(norm: str) -> None:
    x, w, value = case(5)
    d = onto_plane(norm, w, 100 * value, -x, 1 - x)
    corner = torch.where(w * value[:, None] > 0, 0.0, 1.0).double()
    assert torch.equal((x + d)[w != 0].round(decimals=12), corner[w != 0])


@pytest.mark.parametrize("norm", NORMS)
def test_rows_are_independent(norm: str) -> None:
    x, w, value = case(7)
    whole = onto_plane(norm, w, value, -x, 1 - x)
    alone = [onto_plane(norm, w[i : i + 1], value[i : i + 1], -x[i : i + 1], 1 - x[i : i + 1]) for i in range(len(x))]
    torch.testing.assert_close(torch.cat(alone), whole, atol=1e-14, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_means_no_step(norm: str) -> None:
    x, w, value = case(8)
    assert torch.equal(onto_plane(norm, 0 * w, value, -x, 1 - x).abs(), torch.zeros_like(x))
    assert torch.equal(onto_plane(norm, w, 0 * value, -x, 1 - x).abs(), torch.zeros_like(x))

"""Lines of smooth activations hold between the grid points they are computed from, and an interval contains every value."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.bounds import smooth
from advreg.bounds.activations import ACTIVATIONS, Activation

aten = torch.ops.aten
FUNCTIONS = {
    "sigmoid": (ACTIVATIONS[aten.sigmoid.default](), torch.sigmoid),
    "tanh": (ACTIVATIONS[aten.tanh.default](), torch.tanh),
    "silu": (ACTIVATIONS[aten.silu.default](), F.silu),
    "gelu": (ACTIVATIONS[aten.gelu.default](), F.gelu),
    "gelu-tanh": (ACTIVATIONS[aten.gelu.default](approximate="tanh"), partial(F.gelu, approximate="tanh")),
}


def intervals(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return intervals of every width around every bend: 15 centres, 13 widths."""
    centres = torch.tensor(
        [-60, -9, -4, -2.4, -1.41, -1.278, -0.752, -0.1, 0, 0.3, 1, 1.41, 2.4, 6, 60], dtype=torch.float64
    )
    widths = torch.tensor([0, 1e-9, 1e-5, 1e-3, 0.02, 0.1, 0.4, 1, 2.5, 5, 12, 40, 300], dtype=torch.float64)
    low, high = centres[:, None] - widths / 2, centres[:, None] + widths / 2
    return low.flatten().to(dtype), high.flatten().to(dtype)


def worst_excess(activation: Activation, low: Tensor, high: Tensor) -> float:
    """Return by how much a value leaves its lines or its interval, at 1,921 points that the grid of 64 pieces skips."""
    z = low + (high - low) * torch.linspace(0, 1, 1921, dtype=low.dtype)[:, None]
    value, lines = activation(z), activation.lines(low, high, None)
    least, most = activation.interval(low, high)
    excess = (
        lines.below * z + lines.below_shift - value,
        value - lines.above * z - lines.above_shift,
        least - value,
        value - most,
    )
    return max(float(each.max()) for each in excess)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_value_leaves_its_lines_or_its_interval(name: str) -> None:
    activation, run = FUNCTIONS[name]
    z = torch.linspace(-5, 5, 11, dtype=torch.float64)
    assert torch.equal(activation(z), run(z))
    assert worst_excess(activation, *intervals()) <= 1e-15
    assert worst_excess(activation, *intervals(torch.float32)) <= 1e-6


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lines_are_close_where_the_interval_is_narrow(name: str) -> None:
    activation, _ = FUNCTIONS[name]
    low, high = intervals()
    lines, middle, width = activation.lines(low, high, None), (low + high) / 2, high - low
    gap = (lines.above - lines.below) * middle + lines.above_shift - lines.below_shift
    narrow = (width <= 1) & (width > 1e-7)  # narrower ones get level lines
    assert bool((gap[narrow] <= 0.25 * width[narrow] ** 2 + 1e-12).all())


def test_a_planted_curvature_of_0_is_caught() -> None:
    flat = Activation(torch.tanh, lambda low, high, _: smooth.smooth_lines(low, high, torch.tanh, 0.0), torch.ge)
    assert worst_excess(flat, *intervals()) > 1e-9


def test_known_curvatures_bound_the_second_derivative() -> None:
    z = torch.linspace(-12, 12, 24001, dtype=torch.float64, requires_grad=True)
    for run, bound in (
        (torch.sigmoid, 0.0963),
        (torch.tanh, 0.77),
        (F.silu, 0.5),
        (F.gelu, 0.8),
        (nn.GELU("tanh"), 0.8),
    ):
        (slope,) = torch.autograd.grad(run(z).sum(), z, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), z)
        assert 0.99 * bound <= float(bend.detach().abs().max()) <= bound

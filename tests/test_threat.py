"""The threat model's own promises: steepest steps, random starts, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from advreg import ThreatModel
from advreg.errors import ThreatError
from advreg.threat import NORMS

DUAL = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_step_attains_the_dual_norm(norm: str) -> None:
    g = torch.randn(32, 3, 4, 4, dtype=torch.float64)
    direction = ThreatModel(norm, 1.0).steepest(g)
    gain = (g * direction).flatten(1).sum(1)
    torch.testing.assert_close(gain, torch.linalg.vector_norm(g.flatten(1), ord=DUAL[norm], dim=1))
    length = ThreatModel(norm, 1.0).distance(direction, torch.zeros_like(g))
    torch.testing.assert_close(length, torch.ones_like(length))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-24, 1e-38])
def test_l2_steps_have_length_one_however_small_the_gradient(dtype: torch.dtype, size: float) -> None:
    g = (size * torch.randn(8, 3, 4, 4, dtype=torch.float64)).to(dtype)
    g[0] = 0
    length = ThreatModel("l2", 1.0).distance(ThreatModel("l2", 1.0).steepest(g), torch.zeros_like(g))
    expected = (g != 0).flatten(1).any(1).double()
    torch.testing.assert_close(length, expected, atol=8 * torch.finfo(dtype).eps, rtol=0)


def test_l1_step_moves_the_largest_coordinate_that_the_box_lets_move() -> None:
    g, a = torch.tensor([[5.0, -4.0, 3.0, 2.0]]), torch.tensor([[1.0, 0.0, 0.5, 1.0]])
    threat = ThreatModel("l1", 0.2)
    moved = threat.project(a + 0.1 * threat.steepest(g, a), a)
    torch.testing.assert_close(moved, torch.tensor([[1.0, 0.0, 0.6, 1.0]]))


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_fills_the_ball(norm: str) -> None:
    n = 20
    threat = ThreatModel(norm, 0.4, box=(-10.0, 10.0))
    x = torch.zeros(4000, n, dtype=torch.float64)
    start = threat.random_start(x, torch.arange(4000), seed=5)
    share = (threat.distance(start, x) / 0.4).pow(n)  # uniform in a ball of n dimensions: (r / eps)^n is uniform
    assert abs(float(share.mean()) - 0.5) < 0.02
    assert abs(float(share.std()) - 12**-0.5) < 0.01
    assert float(start.mean(0).abs().max()) < 0.03


def test_a_radius_for_each_example() -> None:
    eps = torch.tensor([0.0, 0.1, 0.3])
    threat = ThreatModel("linf", eps)
    x = torch.full((3, 2), 0.5)
    torch.testing.assert_close(threat.project(x + 1, x)[:, 0], 0.5 + eps, atol=1e-6, rtol=0)
    assert threat.select(torch.tensor([2])).eps.tolist() == pytest.approx([0.3])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ThreatModel("linv", 0.1), "Did you mean 'linf'"),
        (lambda: ThreatModel("linf", -0.1), "finite number >= 0"),
        (lambda: ThreatModel("linf", float("nan")), "finite number >= 0"),
        (lambda: ThreatModel("linf", 8.0), "wider than the box"),
        (lambda: ThreatModel("l2", 1.0, box=(1.0, 0.0)), "first value must be below"),
        (lambda: ThreatModel("l2", 1.0, box=(0.0, float("inf"))), "give finite ends, as wide as the input needs"),
        (lambda: ThreatModel("l2", 1.0, box=(float("nan"), 1.0)), "give finite ends, as wide as the input needs"),
        (lambda: ThreatModel.parse("linf=0.1"), "write norm:eps"),
        (lambda: ThreatModel.parse("lin:0.1"), "Did you mean 'linf'"),
        (lambda: ThreatModel.parse("linf:eight"), "such as linf:8/255"),
        (lambda: ThreatModel.parse("linf:8/0"), "such as linf:8/255"),
    ],
)
def test_refuses_in_one_line(make, words: str) -> None:
    with pytest.raises(ThreatError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_reads_and_writes_its_short_form() -> None:
    assert ThreatModel.parse("linf:8/255").eps == 8 / 255
    assert str(ThreatModel("l2", 0.5)) == "l2:0.5"
    assert ThreatModel.parse("l2:0.5") == ThreatModel("l2", 0.5)

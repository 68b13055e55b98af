"""The threat model: steepest steps, random starts, and rejected values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from advreg import ThreatModel
from advreg.attacks.patch import MaskThreat
from advreg.errors import ThreatError
from advreg.threat import NORMS, whole_box

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


def test_l1_step_moves_the_largest_movable_coordinate() -> None:
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


def test_eps_may_differ_between_examples() -> None:
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
        (lambda: ThreatModel.parse("linf:8@0"), "such as linf:8@0,255"),
        (lambda: ThreatModel.parse("linf:8@0,1,2"), "such as linf:8@0,255"),
        (lambda: ThreatModel.parse("linf:8@low,high"), "such as linf:8@0,255"),
        (lambda: ThreatModel.parse("linf:8@255,0"), "first value must be below"),
        (lambda: ThreatModel("linf", "eight"), "eps is 'eight'; give a finite number"),
        (lambda: ThreatModel("linf", None), "eps is None; give a finite number"),
        (lambda: ThreatModel("linf", torch.zeros(2, 3)), r"eps is \(2, 3\); give a number, or one radius for each"),
        (lambda: ThreatModel("linf", 0.1, (0.0, 0.5, 1.0)), "give two numbers"),
        (lambda: ThreatModel("linf", 0.1, None), "box is None; give two numbers"),
    ],
)
def test_bad_input_raises_one_line(make, words: str) -> None:
    with pytest.raises(ThreatError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_threat_reads_and_writes_its_short_form() -> None:
    assert ThreatModel.parse("linf:8/255").eps == 8 / 255
    assert str(ThreatModel("l2", 0.5)) == "l2:0.5"
    assert ThreatModel.parse("l2:0.5") == ThreatModel("l2", 0.5)


RADII = torch.tensor([0.1, 0.2])


@pytest.mark.parametrize(
    "make",
    [
        lambda eps: ThreatModel("linf", eps),
        lambda eps: ThreatModel("l2", eps, (0.0, 255.0)),
        lambda eps: MaskThreat("linf", eps, mask=torch.ones(2, 3, dtype=torch.bool)),
    ],
)
def test_threats_with_eps_per_example_compare(make) -> None:
    assert make(RADII) == make(RADII.clone())
    assert hash(make(RADII)) == hash(make(RADII.clone()))
    assert make(RADII) != make(RADII.flip(0))
    assert make(RADII) != make(0.1)
    assert make(0.1) == make(torch.tensor(0.1, dtype=torch.float64))
    assert len({make(RADII), make(RADII.clone()), make(0.1)}) == 2


def test_threats_of_two_kinds_or_masks_differ() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert MaskThreat("linf", 1.0, mask=mask) != ThreatModel("linf", 1.0)
    assert MaskThreat("linf", 1.0, mask=mask) != MaskThreat("linf", 1.0, mask=~mask)
    assert ThreatModel("linf", 0.1) != ThreatModel("linf", 0.1, (0.0, 2.0))
    assert ThreatModel("linf", 0.1) != "linf:0.1"


@pytest.mark.parametrize("eps", [8 / 255, 0.1, 0.3, 1 / 3, 0.123456789012345, 1e-7, 0.0, 4 / 255])
@pytest.mark.parametrize("box", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0), (-2.117903930131004, 2.64), (0.0, 1 / 3)])
@pytest.mark.parametrize("norm", NORMS)
def test_text_and_repr_round_trip(norm: str, eps: float, box: tuple[float, float]) -> None:
    threat = ThreatModel(norm, eps, box)
    assert ThreatModel.parse(str(threat)) == threat
    assert eval(repr(threat)) == threat  # noqa: S307  # our own repr, of numbers only


def test_threat_text_uses_common_fractions() -> None:
    assert str(ThreatModel("linf", 8 / 255)) == "linf:8/255"
    assert str(ThreatModel("linf", 8, (0, 255))) == "linf:8@0,255"
    assert ThreatModel.parse("l2:128/255@-1,1") == ThreatModel("l2", 128 / 255, (-1.0, 1.0))


@pytest.mark.parametrize("eps", [[0.1, 0.2], np.array([0.1, 0.2]), [[0.1], [0.2]], RADII[:, None]])
def test_radii_may_be_a_list_an_array_or_a_column(eps) -> None:
    threat = ThreatModel("linf", eps)
    assert threat.eps.tolist() == pytest.approx([0.1, 0.2])
    assert threat.select(torch.tensor([1])).eps.tolist() == pytest.approx([0.2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
def test_projection_keeps_the_type_of_its_points(norm: str, dtype: torch.dtype) -> None:
    x = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    threat = ThreatModel(norm, 0.5)
    found = threat.project(x + 1, x)
    assert found.dtype == dtype
    assert bool(threat.contains(found, x).all())


def test_whole_box_contains_every_valid_input() -> None:
    x = torch.rand(3, 5)
    assert whole_box((-1.0, 1.0)).contains(-torch.ones(3, 5), x).all()
    assert whole_box() == ThreatModel("linf", 1.0)

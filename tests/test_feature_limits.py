"""Limits of single features: projections, steps and draws in units of each feature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from advreg import ThreatModel, attacks
from advreg.attacks.inputs import read_batch
from advreg.errors import DataError, ThreatError
from advreg.norms import NORMS, ORDER
from advreg.objectives import margin
from advreg.training.inner.n_fgsm import n_fgsm

EPS = {"linf": 0.8, "l2": 1.5, "l1": 2.5}
SCALE = torch.tensor([1.0, 0.0, 0.5, 20.0, torch.inf, 0.1])
LOW, HIGH = torch.tensor([0.0, 0.0, -1.0, 0.0, -2.0, 0.0]), torch.tensor([1.0, 1.0, 3.0, 100.0, 2.0, 0.3])
DTYPES = [torch.float32, torch.float64]


def threat_of(norm: str) -> ThreatModel:
    return ThreatModel(norm, EPS[norm], (LOW, HIGH), scale=SCALE)  # type: ignore[arg-type]


def points(dtype: torch.dtype, n: int = 64) -> tuple[Tensor, Tensor]:
    """Return clean inputs in the box, some on its faces, and points near and far."""
    draws = torch.Generator().manual_seed(3)
    low, high = LOW.to(dtype), HIGH.to(dtype)
    unit = (1.4 * torch.rand(n, 6, generator=draws, dtype=dtype) - 0.2).clamp(0, 1)
    x = (low + (high - low) * unit).maximum(low).minimum(high)
    reach = torch.where(torch.isfinite(SCALE), SCALE, 1.0).to(dtype).clamp_min(0.05)
    return x, x + 3 * torch.rand(n, 1, generator=draws, dtype=dtype) * reach * torch.randn(n, 6, generator=draws).to(
        dtype
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_projection_in_units_obeys_the_laws(norm: str, dtype: torch.dtype) -> None:
    threat, (x, a) = threat_of(norm), points(dtype)
    p = threat.project(a, x)
    assert bool(threat.contains(p, x).all())
    assert torch.equal(threat.project(p, x), p)
    assert torch.equal(p[:, 1], x[:, 1])
    assert torch.equal(p[:, 4], a[:, 4].clamp(LOW[4], HIGH[4]))
    counted = torch.tensor([0, 2, 3, 5])
    unit = SCALE[counted].double()
    inside = threat.project(points(dtype)[1].flip(0) * 0.3 + x * 0.7, x)
    a, p, q = ((each[:, counted].double()) / unit for each in (a, p, inside))
    assert float(((a - p) * (q - p)).sum(1).max()) <= 1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_distance_in_units_equals_the_norm_of_scaled_offsets(norm: str) -> None:
    threat, (x, a) = threat_of(norm), points(torch.float64)
    a[:, 1] = x[:, 1]
    offset = ((a - x)[:, [0, 2, 3, 5]] / SCALE[[0, 2, 3, 5]].double()).double()
    torch.testing.assert_close(threat.distance(a, x), torch.linalg.vector_norm(offset, ord=ORDER[norm], dim=1))
    a[0, 1] += 1e-9
    assert threat.distance(a, x)[0] == torch.inf
    assert not threat.contains(a, x, tol=0.5)[0]


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_scaled_ball(norm: str) -> None:
    threat = ThreatModel(norm, 0.4, (-100.0, 100.0), scale=torch.tensor([1.0, 0.0, 2.0, torch.inf, 0.5]))
    x = torch.zeros(4000, 5, dtype=torch.float64)
    start = threat.random_start(x, torch.arange(4000), seed=5)
    share = (threat.distance(start, x) / 0.4).pow(3)  # three counted features
    assert abs(float(share.mean()) - 0.5) < 0.02
    assert bool((start[:, 1] == 0).all())
    assert abs(float(start[:, 3].abs().mean()) - 50) < 2


class Linear(nn.Module):
    """Two linear classes in float64."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(
            torch.randn(2, 6, generator=g, dtype=torch.float64) / torch.tensor([1, 1, 1, 20, 1, 0.1])
        )
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", [attacks.pgd, attacks.cosine_pgd, attacks.apgd])
def test_gradient_attacks_reach_the_optimum_of_linear_models_in_units(norm: str, attack) -> None:
    threat, (x, _) = threat_of(norm), points(torch.float64)
    model, y = Linear(), torch.zeros(len(x), dtype=torch.long)
    w = (model.weight[1] - model.weight[0]).detach()
    best = -threat.minimise(-w.expand_as(x), x)
    found = attack(model, x, y, threat, steps=60, objective=margin, early_stop=False)
    gained, possible = (found.x_adv - x) @ w, best - x @ w
    assert bool((gained <= possible + 1e-9).all())
    assert bool(threat.contains(found.x_adv, x).all())
    assert float(((possible - gained) / possible).max()) < 0.05
    assert float(((possible - gained) / possible).median()) < 0.01


def test_l1_steps_skip_immovable_and_held_features() -> None:
    threat = ThreatModel("l1", 0.2, scale=[0.0, 1.0, 1.0, 0.5])
    g, a = torch.tensor([[9.0, 5.0, 3.0, 4.0]]), torch.tensor([[0.5, 1.0, 0.5, 0.5]])
    assert threat.steepest(g, a, a)[0].tolist() == [0.0, 1.0, 1.0, 0.0]


def test_per_feature_radii_are_eps_one_in_units() -> None:
    x = torch.full((2, 3), 0.5)
    threat = ThreatModel.per_feature("linf", [0.1, 0.0, 0.3])
    torch.testing.assert_close(threat.project(x + 1, x)[0], torch.tensor([0.6, 0.5, 0.8]))
    per_channel = ThreatModel.per_feature("linf", torch.tensor([0.1, 0.2]).view(2, 1, 1))
    images = torch.full((3, 2, 4, 4), 0.5)
    torch.testing.assert_close(per_channel.project(images + 1, images)[0, :, 0, 0], torch.tensor([0.6, 0.7]))


def test_threats_with_scales_and_boxes_compare_by_value() -> None:
    assert threat_of("l2") == threat_of("l2")
    assert hash(threat_of("l2")) == hash(threat_of("l2"))
    assert threat_of("l2") != ThreatModel("l2", EPS["l2"], (LOW, HIGH))
    assert threat_of("l2").box == (-2.0, 100.0)
    assert threat_of("l2").with_eps(0.1).bounds is not None
    assert str(threat_of("l2")) != str(ThreatModel("l2", EPS["l2"], (LOW, HIGH)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ThreatModel("l2", 1.0, scale=[1.0, -1.0]), "immovable feature"),
        (lambda: ThreatModel("l2", 1.0, scale=["a"]), "a number for each feature"),
        (lambda: ThreatModel("l2", 1.0, (torch.ones(2), torch.zeros(2))), "lowest value above its highest"),
        (lambda: ThreatModel("l2", 1.0, (torch.ones(2), torch.zeros(3))), "two tensors of one shape"),
    ],
)
def test_bad_limits_raise_one_line(make, words: str) -> None:
    with pytest.raises(ThreatError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "attack", [attacks.fab, attacks.fmn, attacks.deepfool, attacks.square, attacks.hopskipjump, n_fgsm]
)
def test_attacks_with_a_geometry_of_their_own_raise_one_line(attack) -> None:
    x, y = torch.full((4, 3), 0.5), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ThreatError, match="geometry of its own") as caught:
        attack(nn.Linear(3, 2).eval(), x, y, ThreatModel("linf", 1.0, scale=[0.1, 0.1, 0.0]))
    assert "\n" not in str(caught.value)


def test_limits_that_do_not_fit_the_examples_raise() -> None:
    x, y = torch.full((4, 3), 0.5), torch.zeros(4, dtype=torch.long)
    with pytest.raises(DataError, match=r"scale is \(2,\) and an example is \(3,\)"):
        read_batch(x, y, ThreatModel("l2", 1.0, scale=[1.0, 1.0]))
    with pytest.raises(DataError, match=r"feature 1 of example 0 is 0\.5, outside its box"):
        read_batch(x, y, ThreatModel("l2", 1.0, (torch.zeros(3), torch.tensor([1.0, 0.2, 1.0]))))


def test_as_many_radii_as_features_raise_and_name_the_scale() -> None:
    x, y = torch.full((3, 3), 0.5), torch.zeros(3, dtype=torch.long)
    with pytest.raises(DataError, match="per feature is scale="):
        read_batch(x, y, ThreatModel("linf", [0.1, 0.2, 0.3]))
    with pytest.raises(DataError, match="per feature is scale="):
        read_batch(x[:2], y[:2], ThreatModel("linf", [0.1, 0.2, 0.3]))

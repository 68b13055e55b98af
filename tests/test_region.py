"""The valid points around an input: prepared once, they give the same projections as the formulas, to the last bit."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from advreg import ThreatModel, attacks, projections
from advreg.attacks.patch import MaskThreat
from advreg.threat import NORMS, broadcast_per_example

from .attacks.models import small_cnn

EPS = {"linf": 0.2, "l2": 0.9, "l1": 3.0}
BOXES = [(0.0, 1.0), (-2.0, 3.0)]
DTYPES = [torch.float32, torch.float64]


def points(box: tuple[float, float], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return clean inputs, some of them on the faces of the box, and points far and near."""
    low, high = box
    draws = torch.Generator().manual_seed(3)
    x = (low + (high - low) * torch.rand(6, 2, 3, 3, generator=draws, dtype=dtype)).round(decimals=1)
    lengths = broadcast_per_example(torch.tensor([0.0, 0.01, 0.1, 0.5, 1.0, 4.0], dtype=dtype), x)
    return x, x + lengths * torch.randn(x.shape, generator=draws, dtype=dtype)


def by_formula(threat: ThreatModel, a: Tensor, x: Tensor) -> Tensor:
    """Project without anything prepared: clip to the ball, then to the box; in l2 and l1 by offsets."""
    (low, high), radius = threat.box, threat._radius(x)
    if threat.norm == "linf":
        r = broadcast_per_example(radius, x)
        return a.maximum(x - r).minimum(x + r).clamp(low, high)
    onto = projections.l2_box if threat.norm == "l2" else projections.l1_box
    flat = x.flatten(1)
    offset = onto(a.flatten(1) - flat, low - flat, high - flat, radius)
    return (x + offset.view_as(x)).clamp(low, high)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_a_region_projects_to_the_last_bit(
    norm: str, varied: bool, box: tuple[float, float], dtype: torch.dtype
) -> None:
    threat = ThreatModel(norm, EPS[norm] * torch.linspace(0, 1, 6) if varied else EPS[norm], box)
    x, a = points(box, dtype)
    expected = by_formula(threat, a, x)
    region, rows = threat.region(x), torch.tensor([4, 1, 5])
    assert torch.equal(region.project(a), expected)
    assert torch.equal(threat.project(a, x), expected)
    assert torch.equal(region.select(rows).project(a[rows]), expected[rows])
    assert expected.dtype == dtype
    assert not torch.equal(expected, a)


def test_a_mask_leaves_what_is_outside_to_the_last_bit() -> None:
    x, a = points((0.0, 1.0), torch.float32)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < 0.5
    expected, rows = torch.where(mask, a.clamp(0.0, 1.0), x), torch.tensor([3, 0])
    threat = MaskThreat.of(mask)
    assert torch.equal(threat.project(a, x), expected)
    assert torch.equal(threat.region(x).select(rows).project(a[rows]), expected[rows])


@dataclass(frozen=True, eq=False)
class Downward(ThreatModel):
    """Points that are nowhere above the clean input: a user's class that knows of `project` only."""

    def project(self, a: Tensor, x: Tensor) -> Tensor:
        return super().project(a, x).minimum(x)


def test_a_subclass_that_overrides_project_alone_is_respected() -> None:
    model, x = small_cnn(), torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    found = attacks.pgd(model, x, y, Downward("linf", 0.1), steps=5, early_stop=False)
    assert bool((found.x_adv <= x).all())
    assert bool((found.distance > 0.05).all())


def test_steps_prepare_no_region_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small_cnn(), torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y, prepared, plain = model(x).argmax(1), [], ThreatModel.region

    def spy(self: ThreatModel, x: Tensor) -> object:
        prepared.append(len(x))
        return plain(self, x)

    monkeypatch.setattr(ThreatModel, "region", spy)
    for attack in (attacks.pgd, attacks.cosine_pgd, attacks.mifgsm, attacks.nifgsm, attacks.apgd):
        counts = []
        for steps in (5, 30):
            prepared.clear()
            attack(model, x, y, ThreatModel("linf", 1e-6), steps=steps)
            counts.append(len(prepared))
        assert counts[0] == counts[1] > 0

"""The law of units: the same function in a box of another width gets the same diagnosis, figure for figure."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg.diagnosis import Diagnosis, diagnose
from advreg.diagnosis.budget import Budget
from advreg.diagnosis.checks import failure_indicators
from advreg.diagnosis.context import DiagnosisContext
from advreg.results.checks import Check

N, EPS, BUDGET = 60, 0.06, Budget(24, 10, 60, 20, 12, 6, 99)
BOXES = [(0.0, 2.0), (0.0, 255.0), (-1000.0, 1000.0)]
RADII = {"linf": EPS, "l2": 0.4, "l1": 2.5}


class Placed(nn.Module):
    """A small network of the place in the box, with a ripple."""

    def __init__(self, box: tuple[float, float], ripple: float = 0.0) -> None:
        super().__init__()
        self.low, self.width, self.ripple = box[0], box[1] - box[0], ripple
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.core = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        u = (x - self.low) / self.width
        out: Tensor = self.core(u + self.ripple * torch.sin(3000 * u))
        return out


@cache
def found(norm: str, box: tuple[float, float], rounded: bool = False) -> Diagnosis:
    low, high = box
    x = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model: nn.Module = Placed(box)
    if rounded:
        model = nn.Sequential(Rounded(box), model)
    model = model.double().eval()
    x = low + (high - low) * x
    threat = advreg.ThreatModel(norm, RADII[norm] * (high - low), box)  # type: ignore[arg-type]
    return diagnose(model, (x, model(x).argmax(1)), threat, budget=BUDGET, adapt=True)


class Rounded(nn.Module):
    """Rounds to 33 levels of the box."""

    def __init__(self, box: tuple[float, float]) -> None:
        super().__init__()
        self.low, self.width = box[0], box[1] - box[0]

    def forward(self, x: Tensor) -> Tensor:
        return (((x - self.low) / self.width) * 32).round() / 32 * self.width + self.low


@pytest.mark.parametrize("box", BOXES)
def test_a_rough_landscape_is_seen_in_every_box(box: tuple[float, float]) -> None:
    rough, smooth = (landscape(box, ripple) for ripple in (0.03, 0.0))
    assert (rough.verdict, smooth.verdict) == ("suspect", "pass")
    assert rough.measured == pytest.approx(landscape((0.0, 1.0), 0.03).measured, rel=1e-3)


def landscape(box: tuple[float, float], ripple: float) -> Check:
    low, high = box
    x = low + (high - low) * torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = Placed(box, ripple).double().eval()
    right, threat = torch.ones(16, dtype=torch.bool), advreg.ThreatModel("linf", EPS * (high - low), box)
    whole = DiagnosisContext(
        model=model, x=x, y=model(x).argmax(1), ids=torch.arange(16), right=right, robust=right, threat=threat,
        attack=advreg.pgd, claim="pgd-40", budget=BUDGET,
    )  # fmt: skip
    return failure_indicators.noisy_landscape(whole)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.5), ("l1", 3.0)])
@pytest.mark.parametrize("box", BOXES)
def test_a_choice_of_eps_does_not_depend_on_the_width_of_the_box(
    norm: advreg.threat.Norm, eps: float, box: tuple[float, float]
) -> None:
    low, high = box
    x = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    unit, wide = Placed((0.0, 1.0)).double().eval(), Placed(box).double().eval()
    y = unit(x).argmax(1)
    grid, place = [eps / 4, eps], low + (high - low) * x
    one = advreg.choose_epsilon(unit, (x, y), norm=norm, eps=grid)
    other = advreg.choose_epsilon(wide, (place, y), norm=norm, eps=[(high - low) * e for e in grid], box=box)
    assert other.recommended == pytest.approx((high - low) * one.recommended)
    assert len(advreg.choose_epsilon(wide, (place, y), norm=norm, box=box).rows) > 2, "the grid of images, in this box"
    for a, b in zip(one.rows, other.rows, strict=True):
        assert b.robust_accuracy == a.robust_accuracy
        assert (b.ssim, b.ambiguous) == pytest.approx((a.ssim, a.ambiguous), rel=1e-3)
        assert (b.linf, b.l2) == pytest.approx(((high - low) * a.linf, (high - low) * a.l2), rel=1e-3)


QUICK = [("l1", False, box) for box in BOXES] + [("linf", False, BOXES[1])]
SLOW = [(norm, rounded, box) for norm, rounded in [("l2", False), ("linf", True)] for box in BOXES] + [
    ("linf", False, BOXES[0]), ("linf", False, BOXES[2])
]  # fmt: skip


@pytest.mark.parametrize(
    ("norm", "rounded", "box"), QUICK + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW]
)
def test_a_diagnosis_does_not_depend_on_the_width_of_the_box(
    norm: str, rounded: bool, box: tuple[float, float]
) -> None:
    unit, wide = found(norm, (0.0, 1.0), rounded), found(norm, box, rounded)
    assert wide.robust_accuracy == unit.robust_accuracy
    assert wide.verdict == unit.verdict
    assert wide.causes == unit.causes
    for check, other in zip(unit.checks, wide.checks, strict=True):
        assert (other.name, other.verdict, other.cause) == (check.name, check.verdict, check.cause)
        expected = None if check.measured is None else pytest.approx(check.measured, rel=1e-3, abs=1e-6)
        assert other.measured == expected, check.name
    assert wide.adapted is not None
    assert unit.adapted is not None
    assert wide.adapted.robust_accuracy == unit.adapted.robust_accuracy

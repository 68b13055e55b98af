"""Randomised smoothing: closed form on a linear model, published radii, coverage, and equal rows whatever the batch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from torch import Tensor, nn

from advreg import ThreatModel, certify_smoothed
from advreg.certification.smoothing import smoothed_radius
from advreg.errors import ConfigError


def halves() -> nn.Module:
    """Return two classes on the sides of x_0 = 0.5: the smoothed model's radius is the distance to that plane."""
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]]))
        net.bias.copy_(torch.tensor([0.5, -0.5]))
    return net


def points(n: int = 40) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 3, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0.5).long()


def radii(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    return [row["radius"] for row in rows if "radius" in row]


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_radius_is_below_the_exact_one_and_close_to_it(sigma: float, tmp_path: Path) -> None:
    x, y = points()
    certify_smoothed(halves(), (x, y), "l2:0.05", sigma=sigma, samples=4000, out=tmp_path)
    exact = (x[:, 0] - 0.5).abs()
    found = torch.tensor(radii(tmp_path / "evaluation" / "l2-0.05-smoothed@1"))
    assert len(found) == len(x)
    assert bool((found <= exact).all())  # each may fail with chance 0.001
    reach = torch.minimum(exact, torch.tensor(smoothed_radius(4000, 4000, sigma)))
    assert bool((found > 0.75 * reach - 0.12 * sigma).all())


def test_verdicts_follow_the_radius() -> None:
    x, y = torch.tensor([[0.9, 0, 0], [0.52, 0, 0], [0.1, 0, 0]]), torch.tensor([1, 1, 1])
    found = certify_smoothed(halves(), (x, y), "l2:0.2", sigma=0.3, samples=2000)
    assert found.proved.tolist() == [True, False, False]
    assert found.broken.tolist()[2]
    assert found.certified_accuracy <= found.robust_accuracy == found.clean_accuracy


def test_published_ceilings_of_the_radius() -> None:
    """Where every draw agrees, sigma 0.5 (Cohen et al. use 100,000 draws): 1.23, 1.60 and 1.91."""
    assert [round(smoothed_radius(n, n, 0.5), 2) for n in (1000, 10_000, 100_000)] == [1.23, 1.6, 1.91]


def test_lower_bound_covers_the_chance() -> None:
    draws = torch.distributions.Binomial(300, 0.8).sample((4000,)).long()
    exact = NormalDist().inv_cdf(0.8)
    wrong = sum(smoothed_radius(int(count), 300, 1.0) > exact for count in draws)
    assert wrong <= 14  # 4 expected at 0.001; more than 14 has a chance below 1e-4


@pytest.mark.parametrize(("norm", "factor"), [("l2", 1.0), ("l1", 1.0), ("linf", math.sqrt(3))])
def test_other_norms_use_the_ball_around_theirs(norm: str, factor: float) -> None:
    x, y = points()
    found = certify_smoothed(halves(), (x, y), ThreatModel(norm, 0.1), sigma=0.5, samples=2000)
    assert not bool((found.proved & ((x[:, 0] - 0.5).abs() < 0.1 * factor)).any())
    assert bool(found.proved.any())


def test_rows_do_not_depend_on_other_examples_and_resume(tmp_path: Path) -> None:
    x, y = points(6)
    whole = certify_smoothed(halves(), (x, y), "l2:0.1", sigma=0.5, samples=300, out=tmp_path / "a")
    some = certify_smoothed(halves(), (x, y), "l2:0.1", sigma=0.5, samples=300, n=3)
    assert whole.proved[:3].tolist() == some.proved.tolist()
    before = (tmp_path / "a" / "evaluation" / "l2-0.1-smoothed@1" / "ledger.jsonl").read_bytes()
    again = certify_smoothed(halves(), (x, y), "l2:0.1", sigma=0.5, samples=300, out=tmp_path / "a")
    assert again.proved.tolist() == whole.proved.tolist()
    assert (tmp_path / "a" / "evaluation" / "l2-0.1-smoothed@1" / "ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("sigma", "samples", "message"),
    [
        (0.0, 100, "sigma is 0.0"),
        (0.5, 0, "samples is 0"),
        (0.5, 100, "no l2 radius above 0.75"),
        (math.nan, 9, "sigma"),
    ],
)
def test_noise_that_cannot_reach_eps_is_rejected(sigma: float, samples: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        certify_smoothed(halves(), points(), "l2:1", sigma=sigma, samples=samples)

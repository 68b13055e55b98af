"""Certified recipes: values against sums written out by hand in float64, their edges, gradients, and that bounds bound."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import advreg
from advreg import recipes
from advreg.attacks import craft
from advreg.bounds import interval_bounds, trace
from advreg.errors import ConfigError, DataError, ModelError
from advreg.models.initialisation import initialise_for_intervals
from advreg.threat import ThreatModel
from tests.training.small import config, write_data

THREAT = ThreatModel("linf", 0.05)


def make(batchnorm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    norms = [nn.BatchNorm1d(6)] if batchnorm else []
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), *norms, nn.ReLU(), nn.Linear(6, 3)).double()
    for norm in norms:
        nn.init.uniform_(norm.weight, -1.0, 1.0)  # a negative factor swaps the ends of an interval
    return net.train()


def batch(n: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 2, 4, generator=generator, dtype=torch.float64), torch.arange(n) % 3


def worst_loss(net: nn.Module, x: Tensor, y: Tensor, eps: float, low: float = 0.0) -> Tensor:
    """Return the cross-entropy of the worst logits, layer by layer, with the batch's own statistics."""
    first, norm, last = net[1], net[2], net[-1]
    h = first(x.flatten(1))
    mean, variance = h.mean(0), h.var(0, correction=0)
    ends = ((x - eps).clamp(0, 1).flatten(1), (x + eps).clamp(0, 1).flatten(1))
    middle, radius = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
    factor = norm.weight / (variance + norm.eps).sqrt()
    middle = (first(middle) - mean) * factor + norm.bias
    radius = radius @ first.weight.abs().T * factor.abs()
    bottom, top = (middle - radius).relu(), (middle + radius).relu()
    rows = last.weight[y][:, None] - last.weight  # z_y - z_j
    least = (
        (rows.clamp_min(0) * bottom[:, None] + rows.clamp_max(0) * top[:, None]).sum(2)
        + last.bias[y][:, None]
        - last.bias
    )
    return F.cross_entropy(-least, y)


@pytest.mark.parametrize("eps", [0.0, 0.05, 0.4])
def test_ibp_is_the_sum_written_out_by_hand(eps: float) -> None:
    net, (x, y) = make(), batch()
    expected = worst_loss(net, x, y, eps)
    found = recipes.ibp()(net, x, y, None, ThreatModel("linf", eps))
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    for mine, theirs in zip(
        *(torch.autograd.grad(each, list(net.parameters())) for each in (found, expected)), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-10)


def test_ibp_at_eps_0_is_the_clean_loss() -> None:
    net, (x, y) = make(), batch()
    clean = F.cross_entropy(net(x), y)
    for kappa in (0.0, 0.3, 1.0):
        assert recipes.ibp(kappa)(net, x, y, None, ThreatModel("linf", 0.0)).item() == pytest.approx(
            clean.item(), rel=1e-9
        )


def test_kappa_mixes_the_two_losses() -> None:
    net, (x, y) = make(), batch()
    clean, worst = (recipes.ibp(kappa)(net, x, y, None, THREAT) for kappa in (1.0, 0.0))
    assert recipes.ibp(0.25)(net, x, y, None, THREAT).item() == pytest.approx((0.25 * clean + 0.75 * worst).item())


def test_running_statistics_are_those_of_one_forward() -> None:
    net, other, (x, y) = make(), make(), batch()
    recipes.ibp()(net, x, y, None, THREAT)
    other(x)
    assert torch.equal(net[2].running_mean, other[2].running_mean)
    assert int(net[2].num_batches_tracked) == 1


def test_crown_ibp_is_at_most_ibp_where_bounds_are_mixed() -> None:
    net, (x, y) = make(), batch()
    alone, mixed, linear = (
        recipe(net, x, y, None, THREAT) for recipe in (recipes.ibp(), recipes.crown_ibp(0.5), recipes.crown_ibp(1.0))
    )
    assert linear < mixed < alone  # this network's linear bounds are tighter


def test_gradients_of_bounds_are_those_of_differences() -> None:
    net, (x, y), step = make(), batch(), 1e-6
    for recipe in (recipes.ibp(tightness=0.5), recipes.crown_ibp(0.7)):
        weight = net[1].weight
        found = torch.autograd.grad(recipe(net, x, y, None, THREAT), weight)[0]
        for at in ((0, 0), (3, 5), (5, 7)):
            with torch.no_grad():
                weight[at] += step
                up = recipe(net, x, y, None, THREAT)
                weight[at] -= 2 * step
                down = recipe(net, x, y, None, THREAT)
                weight[at] += step
            assert found[at].item() == pytest.approx(((up - down) / (2 * step)).item(), abs=1e-6)


def test_no_point_has_a_larger_loss_than_the_bound() -> None:
    net, (x, y) = make(batchnorm=False), batch(30)
    points = (x + (torch.rand(200, *x.shape, dtype=torch.float64) * 2 - 1).sign() * THREAT.eps).clamp(0, 1)
    largest = torch.stack([F.cross_entropy(net(p), y, reduction="none") for p in points]).amax(0).mean()
    for recipe in (recipes.ibp(), recipes.crown_ibp(), recipes.mtl_ibp(1.0)):
        assert recipe(net, x, y, craft, THREAT) >= largest


def test_mtl_ibp_mixes_attack_and_bounds() -> None:
    net, (x, y) = make(batchnorm=False), batch()
    attacked, bounded = recipes.madry()(net, x, y, _fixed, THREAT), recipes.ibp()(net, x, y, None, THREAT)
    found = recipes.mtl_ibp(0.3)(net, x, y, _fixed, THREAT)
    assert found.item() == pytest.approx((0.7 * attacked + 0.3 * bounded).item())


def test_sabr_is_ibp_at_one_end_and_adversarial_at_the_other() -> None:
    net, (x, y) = make(), batch()
    for tau, other in ((1.0, recipes.ibp()), (0.0, recipes.madry())):
        assert recipes.sabr(tau)(net, x, y, _fixed, THREAT).item() == pytest.approx(
            other(net, x, y, _fixed, THREAT).item()
        )


def _fixed(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **_: object) -> object:
    """Attack with the corner above each input, whatever the model."""
    return type("Result", (), {"x_adv": threat.project(x + threat.eps, x)})()


def test_ignored_labels_do_not_count() -> None:
    net, (x, y) = make(batchnorm=False), batch(4)
    ignored = torch.where(torch.arange(4) == 2, -100, y)
    keep = torch.tensor([0, 1, 3])
    expected = recipes.ibp()(net, x[keep], y[keep], None, THREAT)
    assert recipes.ibp()(net, x, ignored, None, THREAT).item() == pytest.approx(expected.item())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.norm(x)))


@pytest.mark.parametrize(
    ("net", "y", "error", "message"),
    [
        (
            nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 2)),
            torch.zeros(2).long(),
            ModelError,
            "no bound for",
        ),
        (Twice(), torch.zeros(2).long(), ModelError, "called twice"),
        (nn.Linear(4, 2), torch.full((2, 2), 0.5), DataError, "bounds of margins need classes"),
    ],
)
def test_what_has_no_bound_says_so(net: nn.Module, y: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        recipes.ibp()(net, torch.rand(2, 4), y, None, THREAT)


def test_initial_weights_keep_the_width_of_intervals() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(100, 100), nn.ReLU())], nn.Linear(100, 3))
    before = _growth(plain)
    assert 0.3 < _growth(initialise_for_intervals(plain)) < 3 < before


def _growth(net: nn.Module) -> float:
    x = torch.rand(8, 100)
    intervals = interval_bounds(trace(net.eval(), x), x - 0.01, x + 0.01)
    width = [float((high - low).mean()) for low, high in intervals]
    return width[-4] / width[0]


def test_a_run_learns_and_chooses_by_what_is_proved(tmp_path: Path) -> None:
    changes = ["model.init=interval", "data.augment=none", "threat.eps=0.02", "attack.name=none", "recipe.name=ibp",
               "policy.name=warmup", "policy.options.share=0.3", "train.epochs=8"]  # fmt: skip
    run = advreg.fit(config(write_data(tmp_path / "d.npz"), tmp_path / "run", *changes))
    last = [line for line in run.read_log("metrics.jsonl") if "event" not in line][-1]
    assert 0.5 < last["certified_accuracy"] <= last["robust_accuracy"] <= last["clean_accuracy"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["recipe.name=ibp"], "threat.eps is 0"),
        (["recipe.name=ibp", "threat.eps=0.1", "attack.name=pgd"], "go with attack 'none'"),
        (["recipe.name=sabr", "threat.eps=0.1"], "every other recipe with"),
        (["recipe.name=ibp", "threat.eps=0.1", "data.cutmix=true"], "data.cutmix mixes labels"),
        (["recipe.name=ibp", "threat.eps=0.1", "train.compile=true"], "train.compile = false"),
        (["recipe.name=ibp", "threat.eps=0.1", "policy.name=iaat"], "has no attack"),
    ],
)
def test_combinations_without_meaning_are_rejected(keys: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        advreg.Config().replace_with(keys)

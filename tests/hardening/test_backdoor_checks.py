"""Probes: a planted backdoor is found, an honest network is not accused; families attack within their limits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advreg.errors import ConfigError
from advreg.hardening.activation_outliers import activation_outliers
from advreg.hardening.attack_families import THREAT, families, family, mixture, protocol
from advreg.hardening.backdoor_checks import canaries, choose_canaries, drift
from advreg.hardening.trigger_inversion import find_outlier, pattern_norms, trigger, trigger_sizes

CLASSES = "abc"


class Honest(nn.Module):
    """The class is the brightest of three bands."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.stack([x[:, 0, :, 4 * k : 4 * k + 4].mean((1, 2)) for k in range(3)], 1)


class Backdoored(Honest):
    """The same, but a white 2 x 2 corner means class c."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corner = x[:, 0, -2:, -2:].mean((1, 2))
        return super().forward(x) + torch.stack([torch.zeros_like(corner)] * 2 + [40 * (corner - 0.5).relu()], 1)


def bands(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(n) % 3
    x = 0.3 * torch.rand(n, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    for k in range(3):
        x[y == k, :, :, 4 * k : 4 * k + 4] += 0.5
    return x, y


def test_a_planted_backdoor_is_found_and_an_honest_network_is_not_accused() -> None:
    x, _ = bands(24)
    honest, planted = (trigger_sizes(model.eval(), x, 3) for model in (Honest(), Backdoored()))
    caught = trigger(planted, {"champion": honest}, CLASSES)
    assert not caught.passed
    assert "class c" in caught.says
    assert planted[2] < 6
    assert trigger(honest, {"base": honest}, CLASSES).passed
    assert trigger(trigger_sizes(Honest().eval(), x, 3, seed=1), {"base": honest}, CLASSES).passed


class Blended(Honest):
    """The same, but a faint pattern over the whole image means class c."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x[:, 0] * PATTERN).mean((1, 2))
        return super().forward(x) + torch.stack([torch.zeros_like(score)] * 2 + [400 * score], 1)


PATTERN = torch.tensor([1.0, -1.0]).repeat(72).view(12, 12)


def test_a_pattern_over_the_whole_image_is_found_by_its_norm() -> None:
    x, _ = bands(24)
    honest, planted = (pattern_norms(model.eval(), x, 3) for model in (Honest(), Blended()))
    caught = trigger(planted, {"base": honest}, CLASSES, "pattern")
    assert not caught.passed
    assert "class c" in caught.says
    assert trigger(pattern_norms(Honest().eval(), x, 3, seed=1), {"base": honest}, CLASSES, "pattern").passed


def test_a_class_that_grew_less_than_the_others_is_an_outlier() -> None:
    base = [10.0, 12.0, 9.0, 11.0, 10.0, 13.0]
    robust = [3.1 * size for size in base]
    assert find_outlier(robust, base) is None
    assert find_outlier([*robust[:4], 12.0, robust[5]], base) == 4
    found = trigger([*robust[:4], 12.0, robust[5]], {"base": base}, "abcdef")
    assert not found.passed
    assert "class e lies far below" in found.says


@pytest.mark.parametrize("planted", [Backdoored, Blended])
def test_what_poisoned_outliers_share_convicts_the_challenger_alone(planted: type[nn.Module]) -> None:
    x, y = bands(120)
    stamped = (x[:60] + 0.05 * PATTERN).clamp(0, 1) if planted is Blended else x[:60].clone()
    if planted is Backdoored:
        stamped[:, :, -2:, -2:] = 1.0
    poison = stamped[y[:60] != 2]
    admitted = (poison, torch.full((len(poison),), 2))
    base, clean = Honest().eval(), (x[60:], y[60:])
    found = activation_outliers(planted().eval(), base, admitted, clean, CLASSES)
    assert not found.passed, found.says
    assert "class c" in found.says
    assert activation_outliers(base, base, admitted, clean, CLASSES).passed


def test_drift_is_measured_over_the_whole_chain() -> None:
    y = torch.arange(2000) % 2
    x = torch.zeros(2000, 1, 2, 2)

    class Fixed(nn.Module):
        def __init__(self, wrong: int) -> None:
            super().__init__()
            self.scale, self.wrong = nn.Parameter(torch.tensor(1.0)), wrong

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            says = torch.cat([1 - y[: self.wrong], y[self.wrong :]])
            return self.scale * nn.functional.one_hot(says, 2).float()

    chain = [Fixed(wrong) for wrong in range(0, 101, 10)]  # half a point a cycle
    passed = [drift(model, chain[0], x, y, margin=0.02).passed for model in chain]
    assert passed[:3] == [True] * 3
    assert passed[4:] == [False] * 7


def test_canaries_see_one_class_that_was_turned() -> None:
    x, y = bands()
    model = Honest().eval()
    rows = choose_canaries(model, x, y, per_class=5)
    assert torch.bincount(y[rows]).tolist() == [5, 5, 5]
    assert canaries(model, x[rows], y[rows], CLASSES).passed
    turned = Honest().eval()
    turned.forward = lambda z: Honest.forward(turned, z)[:, [1, 0, 2]]  # type: ignore[method-assign]
    found = canaries(turned, x[rows], y[rows], CLASSES)
    assert not found.passed
    assert "5 of 15 right" in found.says


@pytest.mark.parametrize("name", ["linf:0.1", "l2:1", "spatial:20:2", "patch:3"])
def test_both_forms_of_a_family_keep_its_limits(name: str) -> None:
    x, y = bands(12)
    model, one = Honest().eval(), family(name)
    strong = one.stage.attack(model, x, y, THREAT).x_adv
    fresh = one.fresh(model, x, y, torch.arange(12), 3)
    for points in (strong, fresh):
        assert points.shape == x.shape
        assert 0 <= float(points.min()) <= float(points.max()) <= 1
        change = (points - x).flatten(1)
        if name == "linf:0.1":
            assert float(change.abs().max()) <= 0.1 + 1e-6
        if name == "l2:1":
            assert float(change.norm(dim=1).max()) <= 1 + 1e-5
        if name == "patch:3":
            assert int((change != 0).sum(1).max()) <= 9
    assert torch.equal(fresh, one.fresh(model, x, y, torch.arange(12), 3))


def test_every_family_gets_its_part_of_a_batch() -> None:
    x, y = bands(12)
    points = mixture(families(["linf:0.1", "patch:3"]))(Honest().eval(), x, y, THREAT, seed=1).x_adv
    changed = (points != x).flatten(1).sum(1)
    assert int(changed[0::2].min()) > 9
    assert int(changed[1::2].max()) <= 9


def test_the_protocols_id_names_its_families() -> None:
    assert (
        protocol(families(["linf:8/255", "spatial:30:3"]), 0, 9).id(THREAT)
        == "linf-1-harden-0-9-linf-0.0313725+spatial-30-3@1"
    )


@pytest.mark.parametrize("name", ["", "linf", "linf:x", "linf:-1", "patch:0", "patch", "spatial:30", "pgd:3"])
def test_an_unknown_family_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match="attacks holds"):
        family(name)

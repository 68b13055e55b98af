"""On linear models the worst case of every norm is known, so is that of their union."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import advreg
from advreg import example_rng
from advreg.config import AttackConfig
from advreg.training import inner, recipes
from tests.attacks.models import Counter

LINF, L2 = advreg.ThreatModel("linf", eps=0.05), advreg.ThreatModel("l2", eps=0.12)
PGD = partial(advreg.attacks.craft, steps=3, start="zero")


@pytest.fixture
def batch():
    """Inputs far from the box, two classes, and eps of linf that makes it the worse norm for every second example."""
    torch.manual_seed(0)
    linf = LINF.with_eps(torch.tensor([0.01, 0.1] * 3))
    return torch.rand(6, 8, dtype=torch.float64) * 0.2 + 0.4, torch.arange(6) % 2, linf


@pytest.fixture
def model():
    torch.manual_seed(1)
    return nn.Linear(8, 2).double()


def worst_loss(model, x, y, linf):
    """Return the largest cross-entropy in the union: two classes, so the margin falls by eps times the dual norm."""
    w = (model.weight[0] - model.weight[1]).detach()
    margin = ((x @ w) + model.bias[0] - model.bias[1]).detach() * (1 - 2 * y)
    reach = torch.stack([linf.eps.double() * w.abs().sum(), torch.full((6,), L2.eps * w.norm(), dtype=torch.float64)])
    assert 0 < int((reach[0] > reach[1]).sum()) < 6, "each norm is the worst of some example"
    return F.softplus(-(margin - reach.amax(0)))


@pytest.mark.parametrize("attack", ["max", "msd"])
def test_union_attacks_reach_the_closed_form_of_every_example(model, batch, attack):
    x, y, linf = batch
    counted = Counter(model)
    run = {
        "max": partial(inner.worst_norm, others=[L2], attack=PGD),
        "msd": partial(inner.multi_steepest, others=[L2], steps=3),
    }[attack]
    found = run(model, x, y, linf)
    assert (counted.forwards, counted.backwards) == (found.forwards, found.backwards)
    loss = F.cross_entropy(model(found.x_adv), y, reduction="none")
    torch.testing.assert_close(loss, worst_loss(model, x, y, linf), rtol=1e-6, atol=1e-8)
    expected = {"max": (2 * 4 * 6, 2 * 3 * 6), "msd": (3 * 3 * 6, 3 * 6)}[attack]
    assert (found.forwards, found.backwards) == expected


def test_sampled_norm_draws_by_error_rates_and_keeps_them(model, batch):
    x, y, _ = batch
    attack = inner.SampledNorm([L2], PGD, decay=0.5)
    attack.load_state_dict({"errors": torch.tensor([0.0, 0.8])})
    found = attack(model, x, y, LINF, seed=3)
    assert torch.equal(found.x_adv, PGD(model, x, y, L2, seed=3).x_adv), "linf was never broken, so l2 is attacked"
    rate = float((model(found.x_adv).argmax(1) != y).float().mean())
    assert attack.state_dict()["errors"].tolist() == pytest.approx([0.0, 0.4 + 0.5 * rate])
    attack.load_state_dict({"errors": torch.tensor([0.5, 0.5])})
    drawn = [float((attack(model, x, y, LINF, seed=k).x_adv - x).abs().max()) <= 0.0501 for k in range(12)]
    assert 0 < sum(drawn) < 12
    assert (found.forwards, found.backwards) == (24, 18)


@pytest.mark.parametrize("union", ["max", "msd", "e-at"])
def test_all_radii_of_a_union_grow_together(model, batch, union):
    x, y, _ = batch
    section = AttackConfig("pgd", steps=2, start="zero", norms="l2:0.12", union=union)
    half = inner.from_section(section, eps=0.1)(model, x, y, LINF, seed=0).x_adv
    moved = (half - x).flatten(1)
    assert ((moved.abs().amax(1) <= 0.0501) | (moved.norm(dim=1) <= 0.0601)).all()


def test_nuat_is_its_formula():
    """The step maximises cross-entropy plus the nuclear norm at even batches, cross-entropy at odd ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x, y, recipe = torch.rand(6, 8, dtype=torch.float64), torch.arange(6) % 3, recipes.nuat(weight=4.0, ramp=2)
    recipe.start_epoch(1)
    found = []
    for batch in range(2):
        torch.manual_seed(batch)
        loss = recipe(model, x, y, None, LINF).item()
        torch.manual_seed(batch)
        draws = example_rng.uniform(torch.arange(6), (8,), int(torch.randint(2**31, ())))
        start = (x + 0.025 * ((draws < 0.5).double() * 2 - 1)).clamp(0, 1).requires_grad_()
        singular = torch.linalg.svdvals(model(start) - model(x).detach()).sum()
        inside = F.cross_entropy(model(start), y) + 2.0 * singular / 6 * (batch == 0)
        grad = torch.autograd.grad(inside, start)[0]
        x_adv = torch.minimum(torch.maximum(start.detach() + 0.05 * grad.sign(), x - 0.05), x + 0.05).clamp(0, 1)
        singular = np.linalg.svd((model(x) - model(x_adv)).detach().numpy(), compute_uv=False).sum()
        assert loss == pytest.approx(F.cross_entropy(model(x), y).item() + 2.0 * singular / 6, rel=1e-6)
        found.append(loss)
    assert found[0] != found[1]


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_adaad_is_its_formula(model, batch, alpha):
    x, y, _ = batch
    torch.manual_seed(5)
    teacher = nn.Linear(8, 2).double()
    found = []

    def attack(both, x, y, threat, **options):
        found.append(PGD(both, x, y, threat, **options).x_adv)
        return PGD(both, x, y, threat, **options)

    loss = recipes.adaad(robust=teacher, alpha=alpha)(model, x, y, attack, LINF)
    (x_adv,) = found

    def kl(point):
        return F.kl_div(model(point).log_softmax(1), teacher(point).softmax(1), reduction="none").sum(1)

    torch.testing.assert_close(loss, alpha * kl(x_adv).mean() + (1 - alpha) * kl(x).mean())
    torch.manual_seed(6)
    for _ in range(50):
        beside = x + 0.05 * torch.randn_like(x).sign()
        assert kl(beside).mean() <= kl(x_adv).mean() + 1e-4, "the attack finds what random corners do not"

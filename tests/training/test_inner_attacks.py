"""TRADES' own start, friendly stopping, stored perturbations: against sequences worked out by hand on linear models."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import advreg
from advreg import example_rng
from advreg.attacks import craft
from advreg.config import AttackConfig
from advreg.data import augmentation
from advreg.errors import ConfigError, ThreatError
from advreg.training import eval_mode, inner, per_example_state, recipes
from tests.attacks.models import Counter
from tests.training import small

THREAT = advreg.ThreatModel("linf", eps=0.1)
NORMS = [advreg.ThreatModel("linf", 0.1), advreg.ThreatModel("l2", 0.5), advreg.ThreatModel("l1", 1.0)]


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.rand(6, 8) * 0.2 + 0.4, torch.arange(6) % 3


@pytest.fixture
def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 3)).eval()


def test_near_starts_a_hair_beside_and_then_is_pgd(model, batch):
    x, y = batch
    ids = torch.arange(6)
    start = x + 0.001 * example_rng.normal(ids, (8,), 7)
    assert torch.equal(inner.trades_pgd(model, x, y, THREAT, steps=0, seed=7).x_adv, start)
    point = start
    for _ in range(2):
        leaf = point.clone().requires_grad_()
        grad = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)[0]
        point = (point + 0.03 * grad.sign()).clamp(x - 0.1, x + 0.1)
    found = inner.trades_pgd(model, x, y, THREAT, steps=2, step_size=0.03, seed=7)
    torch.testing.assert_close(found.x_adv, point)


@pytest.mark.parametrize("threat", NORMS, ids=str)
def test_every_attack_stays_inside_and_has_its_stated_cost(threat):
    torch.manual_seed(0)
    x, y, net = torch.rand(5, 1, 8, 8), torch.arange(5) % 3, small.network().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    stored = inner.FgsmPgi()
    for attack, passes in ((inner.trades_pgd, 10), (inner.friendly_pgd, None), (stored, 1), (stored, 1)):
        count = Counter(net)
        with eval_mode(net):
            found = attack(net, x, y, threat)
        assert threat.contains(found.x_adv, x).all()
        assert (found.forwards, found.backwards) == (count.forwards, count.backwards)
        assert found.forwards == 5 * passes if passes else found.forwards <= 5 * 10
        assert count.weight_gradients() == 0
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


class Slope(nn.Module):
    """Logits (0, k x): wrong about label 0 where x > 0, and every step of an attack moves x up."""

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), x - 0.5], dim=1)


@pytest.mark.parametrize(("tau", "ends"), [(0, [0.55, 0.65]), (1, [0.65, 0.75]), (2, [0.7, 0.85]), (9, [0.7, 0.9])])
def test_friendly_stops_at_the_right_iterate(tau, ends):
    """Steps of 0.1: the first is wrong at its third iterate, 0.55, and its ball ends at 0.7; the second is wrong at once."""
    x, y = torch.tensor([[0.35], [0.65]]), torch.tensor([0, 0])
    threat = advreg.ThreatModel("linf", torch.tensor([0.35, 0.25]))
    found = inner.friendly_pgd(Slope(), x, y, threat, tau=tau, steps=7, step_size=0.1, start="zero")
    assert found.x_adv[:, 0].tolist() == pytest.approx(ends, abs=1e-5)


def test_friendly_pays_only_for_those_who_stay():
    x, y = torch.tensor([[0.35], [0.65], [0.1]]), torch.tensor([0, 0, 0])
    count = Counter(net := Slope())
    found = inner.friendly_pgd(net, x, y, advreg.ThreatModel("linf", 0.35), tau=0, steps=7, step_size=0.1, start="zero")
    assert found.forwards == count.forwards == 3 + 1 + 7  # wrong at the third look, at the first, never
    assert found.backwards == count.backwards


def test_friendly_with_patience_is_pgd(model, batch):
    plain = advreg.attacks.craft(model, *batch, THREAT, steps=4, seed=3)
    patient = inner.friendly_pgd(model, *batch, THREAT, steps=4, tau=99, seed=3)
    assert torch.equal(plain.x_adv, patient.x_adv)


def test_the_objective_can_be_overridden(model, batch):
    queried = []

    def attack(model, x, y, threat, *, objective, seed):
        queried.append(objective)
        return advreg.attacks.craft(model, x, y, threat, objective=objective, seed=seed, steps=1)

    recipes.madry()(model, *batch, inner.maximising(attack, advreg.objectives.dlr), THREAT)
    recipes.trades()(model, *batch, attack, THREAT)
    assert queried == [advreg.objectives.dlr, advreg.objectives.kl]


def hand_mep(model, x, y, start, trend, momentum, eps):
    """One visit of FGSM-MEP by hand: the point, and what the next epoch begins with."""
    leaf = (x + start).clone().requires_grad_()
    grad = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)[0]
    trend = momentum * trend + grad / grad.abs().sum(1, keepdim=True)
    point = (x + start + eps * grad.sign()).clamp(x - eps, x + eps)
    return point, (x + start + eps * trend.sign()).clamp(x - eps, x + eps) - x, trend


def test_stored_is_mep_by_hand_over_four_epochs(batch):
    """Every epoch another model, so that trend and gradient point apart."""
    x, y = batch
    attack, ids = inner.FgsmPgi(examples=20, momentum=0.8), torch.tensor([3, 0, 19, 7, 8, 2])
    start, trend, apart = THREAT.random_start(x, ids, 5) - x, torch.zeros_like(x), 0
    for epoch in range(4):
        torch.manual_seed(epoch)
        net = nn.Linear(8, 3)
        found = attack(net, x, y, THREAT, ids=ids, seed=5)
        torch.testing.assert_close(found.x_start, x + start, atol=1e-4, rtol=0)  # kept in half precision
        point, start, trend = hand_mep(net, x, y, start, trend, 0.8, 0.1)
        torch.testing.assert_close(found.x_adv, point, atol=2e-4, rtol=0)
        apart += int((point - x != start).sum())
    assert apart > 20


def test_stored_follows_ids_not_order(model, batch):
    x, y = batch
    ids, order = torch.tensor([3, 0, 19, 7, 8, 2]), torch.tensor([5, 2, 0, 1, 4, 3])
    straight, shuffled = inner.FgsmPgi(), inner.FgsmPgi()
    for attack in (straight, shuffled):
        attack(model, x, y, THREAT, ids=ids, seed=5)
    rows = shuffled(model, x[order], y[order], THREAT, ids=ids[order], seed=9)
    again = straight(model, x, y, THREAT, ids=ids, seed=1)
    assert torch.equal(rows.x_start, again.x_start[order])
    assert torch.equal(rows.x_adv, again.x_adv[order])


def test_stored_forgets_every_reset_epochs(model, batch):
    x, y = batch
    attack = inner.FgsmPgi(reset=2)
    starts = []
    for epoch in range(1, 5):
        per_example_state.start_epoch({"attack": attack}, epoch)
        starts.append(attack(model, x, y, THREAT, seed=epoch).x_start)
    random = [THREAT.random_start(x, torch.arange(6), epoch) for epoch in range(1, 5)]
    assert [torch.equal(a, b) for a, b in zip(starts, random, strict=True)] == [True, False, True, False]


def test_stored_resumes_to_the_bit(model, batch):
    x, y = batch
    ids = torch.tensor([3, 0, 19, 7, 8, 2])
    one, other = inner.FgsmPgi(), inner.FgsmPgi()
    one(model, x, y, THREAT, ids=ids, seed=5)
    per_example_state.restore({"attack": other}, per_example_state.states({"attack": one}))
    assert torch.equal(one(model, x, y, THREAT, ids=ids).x_adv, other(model, x, y, THREAT, ids=ids).x_adv)
    per_example_state.restore({"attack": other}, per_example_state.states({"attack": inner.FgsmPgi()}))
    fresh = other(model, x, y, THREAT, ids=ids, seed=5).x_start
    assert torch.equal(fresh, THREAT.random_start(x, ids, 5))


def test_stored_perturbations_stay_with_their_pixels_through_crops_and_flips():
    """A model that looks at nothing but one pixel of the data set, wherever the loader puts it."""
    torch.manual_seed(0)
    crop_flip, ids = augmentation("crop-flip"), torch.arange(4)
    images = torch.full((4, 1, 8, 8), 0.5)
    mark = torch.zeros(4, 1, 8, 8)
    mark[:, 0, 3, 4] = 1.0
    attack, shown = inner.FgsmPgi(augment=crop_flip, seed=2), torch.zeros(4, dtype=torch.int64)
    for epoch in (1, 2, 3, 4):
        per_example_state.start_epoch({"attack": attack}, epoch)
        x, seen = crop_flip(images, ids, 2, epoch), crop_flip(mark, ids, 2, epoch)
        shown += seen.flatten(1).any(1)

        def net(x, seen=seen):
            z = (x * seen).flatten(1).sum(1, keepdim=True)
            return torch.cat([torch.zeros_like(z), z], dim=1)

        attack(net, x, torch.zeros(4, dtype=torch.int64), THREAT, ids=ids, seed=1)
    kept = attack.state_dict()["trend"][:4]
    assert 1 < shown.sum() < 16, "some epochs cut the pixel off"
    trend = torch.tensor([8 * sum(0.3**k for k in range(n)) for n in shown])  # 8: the root of the 64 pixels
    torch.testing.assert_close(kept[:, 0, 3, 4].float(), trend, rtol=1e-3, atol=0)
    kept[:, 0, 3, 4] = 0
    assert (kept == 0).all(), "and nobody else's"


def test_stored_rejects_what_makes_no_sense():
    with pytest.raises(ThreatError, match="momentum is 1"):
        inner.FgsmPgi(momentum=1.0)
    with pytest.raises(ThreatError, match="reset 0"):
        inner.FgsmPgi(reset=0)


def test_pgi_is_both_terms_and_needs_the_start(model, batch):
    x, y = batch
    attack = inner.FgsmPgi()
    torch.manual_seed(0)
    loss = recipes.pgi(weight=10.0, label_smoothing=0.4)(model, x, y, attack, THREAT)
    seen = inner.FgsmPgi()
    torch.manual_seed(0)
    found = recipes.base.run_attack_in_eval(model, x, y, seen, THREAT)
    z_start, z_adv = model(found.x_start), model(found.x_adv)
    soft = torch.where(F.one_hot(y, z_adv.shape[1]) == 1, 0.6, 0.4 / (z_adv.shape[1] - 1)).to(z_adv.dtype)
    expected = F.cross_entropy(z_adv, soft) + 10 * ((z_adv - z_start) ** 2).mean()
    torch.testing.assert_close(loss, expected)
    slopes = [torch.autograd.grad(value, model[0].weight)[0] for value in (loss, expected)]
    torch.testing.assert_close(*slopes)
    with pytest.raises(ConfigError, match="whose result has no x_start"):
        recipes.pgi()(model, x, y, partial(advreg.attacks.craft, steps=1), THREAT)


def test_trades_as_in_the_paper(model, batch):
    """With its own start and reference: the attack is asked to leave the answer at x itself."""
    x, y = batch
    queried = []

    def attack(model, x, y, threat, **options):
        queried.append(y)
        return inner.trades_pgd(model, x, y, threat, steps=3, step_size=0.07, **options)

    loss = recipes.trades(beta=6.0, reference="clean")(model, x, y, attack, THREAT)
    assert torch.equal(queried[0], model(x).softmax(1))
    assert loss > F.cross_entropy(model(x), y) + 0.01, "it leaves the point where the divergence is flat"


def test_a_configuration_names_them(model, batch):
    x, y = batch

    def made(**keys):
        return inner.from_section(AttackConfig(**keys), 0.1, examples=6, seed=3)

    stored = made(name="stored", momentum=0.7, reset=5, step_size=0.12)
    assert isinstance(stored, inner.FgsmPgi)
    assert (stored.examples, stored.momentum, stored.reset, stored.step_size, stored.seed) == (6, 0.7, 5, 0.12, 3)
    beside = made(name="pgd", steps=2, start="gaussian")(model, x, y, THREAT, seed=7)
    assert torch.equal(beside.x_adv, inner.trades_pgd(model, x, y, THREAT, steps=2, seed=7).x_adv)
    hinge = made(name="pgd", steps=2, objective="margin")(model, x, y, THREAT, seed=7)
    by_hand = craft(model, x, y, THREAT, steps=2, seed=7, objective=advreg.objectives.margin)
    assert torch.equal(hinge.x_adv, by_hand.x_adv)
    for name in ("n-fgsm", "stored"):  # whose steps begin elsewhere; warnings are errors here
        made(name=name, step_size=0.01)
    with pytest.warns(UserWarning, match="2 steps of 0.01 cannot reach eps = 0.1"):
        made(name="pgd", steps=2, step_size=0.01)

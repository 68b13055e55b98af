"""Every loss is its paper's formula: computed again in numpy, on linear models whose worst case is known."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import advreg
from advreg.errors import ConfigError, DataError
from advreg.training import recipes
from advreg.training.recipes import base

EPS = 0.1
THREAT = advreg.ThreatModel("linf", eps=EPS)
STEP = partial(advreg.attacks.craft, steps=1, start="zero")


@pytest.fixture
def batch():
    """Inputs far from the box, and two classes."""
    torch.manual_seed(0)
    return torch.rand(6, 8, dtype=torch.float64) * 0.5 + 0.25, torch.arange(6) % 2


@pytest.fixture
def model():
    torch.manual_seed(1)
    return nn.Linear(8, 2).double()


class Spy:
    """An attack that remembers what it was asked and what it found."""

    def __init__(self, attack=STEP):
        self.attack = attack

    def __call__(self, model, x, y, threat, *, objective, seed):
        self.x, self.y, self.threat, self.objective = x, y, threat, objective
        found = self.attack(model, x, y, threat, objective=objective, seed=seed)
        self.x_adv = found.x_adv
        return found


def margins(model, x):
    """Return ``z_0 - z_1`` and how much linf of eps can move it."""
    w, b = (parameter.detach().numpy() for parameter in model.parameters())
    return x.numpy() @ (w[0] - w[1]) + b[0] - b[1], EPS * np.abs(w[0] - w[1]).sum()


def entropy(margin, y):
    """Return the cross-entropy of two classes with that margin of class 0 over class 1."""
    return np.log1p(np.exp(-margin * (1 - 2 * y.numpy())))


def clean_and_worst(model, x, y):
    margin, reach = margins(model, x)
    return entropy(margin, y), entropy(margin - reach * (1 - 2 * y.numpy()), y)


def test_mixed_is_clean_first_and_worst_case_last(model, batch):
    clean, worst = clean_and_worst(model, *batch)
    loss = recipes.mixed(0.5)(model, *batch, STEP, THREAT)
    assert loss.item() == pytest.approx(np.concatenate([clean[:3], worst[3:]]).mean(), abs=1e-9)


def test_mixed_ends_at_standard_and_at_madry(model, batch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("there is nothing to attack")

    assert torch.equal(
        recipes.mixed(0.0)(model, *batch, never, THREAT), recipes.standard()(model, *batch, STEP, THREAT)
    )
    assert torch.equal(recipes.mixed(1.0)(model, *batch, STEP, THREAT), recipes.madry()(model, *batch, STEP, THREAT))


def test_mixed_gives_each_attacked_example_its_own_eps_and_draws(model, batch):
    x, y = batch
    threat = THREAT.with_eps(torch.tensor([0.0, 0.0, 0.0, 0.01, 0.02, 0.03]))
    drawn = []

    def attack(model, x, y, threat, *, ids, **options):
        drawn.append(ids.tolist())
        return advreg.attacks.craft(model, x, y, threat, ids=ids, **options)

    spy = Spy(recipes.bind_ids(attack, torch.tensor([10, 11, 12, 13, 14, 15])))
    recipes.mixed(0.5)(model, x, y, spy, threat)
    recipes.madry()(model, x, y, spy, THREAT)
    assert drawn == [[13, 14, 15], [10, 11, 12, 13, 14, 15]]
    recipes.mixed(0.5)(model, x, y, spy, threat)
    assert torch.equal(spy.threat.eps, torch.tensor([0.01, 0.02, 0.03]))


def test_multiplier_adds_a_share_of_the_worst_case(model, batch):
    clean, worst = clean_and_worst(model, *batch)
    loss = recipes.multiplier(0.3)(model, *batch, STEP, THREAT)
    assert loss.item() == pytest.approx((clean + 0.3 * worst).mean(), abs=1e-9)
    assert torch.equal(recipes.multiplier(0.0)(model, *batch, STEP, THREAT), F.cross_entropy(model(batch[0]), batch[1]))


@pytest.mark.parametrize("start", ["zero", "uniform"])
def test_trades_takes_the_divergence_to_an_end_of_the_ball(model, batch, start):
    """On two classes and a linear model KL grows towards both ends: every example must be at one, from any start."""
    x, y = batch
    spy = Spy(partial(advreg.attacks.craft, steps=5, start=start))
    loss = recipes.trades(beta=6.0)(model, x, y, spy, THREAT)
    margin, reach = margins(model, x)
    moved = margins(model, spy.x_adv)[0]
    np.testing.assert_allclose(np.abs(moved - margin), reach, atol=1e-9)
    p, q = 1 / (1 + np.exp(-margin)), 1 / (1 + np.exp(-moved))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert loss.item() == pytest.approx((entropy(margin, y) + 6.0 * divergence).mean(), abs=1e-9)


def test_trades_attacks_the_models_own_answer_not_the_label(model, batch):
    x, y = batch
    spy = Spy()
    recipes.trades()(model, x, 1 - y, spy, THREAT)
    assert spy.objective is advreg.objectives.kl
    margin, reach = margins(model, x)
    answer = torch.logit(spy.y[:, 0]).numpy()
    assert (np.abs(answer - margin) <= reach / 32 + 1e-12).all()
    assert (answer != margin).all(), "exactly there the divergence is flat"


def test_trades_without_weight_is_clean_cross_entropy(model, batch):
    x, y = batch
    loss = recipes.trades(beta=0.0)(model, x, y, STEP, THREAT)
    torch.testing.assert_close(loss, F.cross_entropy(model(x), y), rtol=0, atol=1e-15)


def test_divergence_has_the_gradient_of_its_formula():
    torch.manual_seed(0)
    z, z_adv = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(base.divergence, (z, z_adv))
    p, q = z.softmax(1), z_adv.softmax(1)
    torch.testing.assert_close(base.divergence(z, z_adv), (p * (p / q).log()).sum(1))


def three_classes():
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    net[2].weight.data.mul_(8)  # sure of most inputs, wrongly of some
    return net, torch.rand(6, 8, dtype=torch.float64), torch.arange(6) % 3


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_mart_is_the_sum_of_its_terms():
    net, x, y = three_classes()
    spy = Spy()
    loss = recipes.mart(beta=5.0)(net, x, y, spy, THREAT.with_eps(0.001))
    assert spy.objective is advreg.objectives.cross_entropy
    p, q = (softmax(net(inputs).detach().numpy()) for inputs in (x, spy.x_adv))
    rows, labels = np.arange(6), y.numpy()
    rivals = np.array([max(q[i, k] for k in range(3) if k != labels[i]) for i in rows])
    assert rivals.min() < 0.1 < 0.9 < rivals.max()
    boosted = -np.log(q[rows, labels]) - np.log(1.0001 - rivals)
    weighted = (p * np.log(p / q)).sum(1) * (1 - p[rows, labels])
    assert loss.item() == pytest.approx((boosted + 5.0 * weighted).mean(), abs=1e-9)


def test_mart_rejects_mixed_labels_in_one_line():
    net, x, y = three_classes()
    with pytest.raises(DataError, match=r"mart was given labels \(6, 3\); give \(B,\)"):
        recipes.mart()(net, x, F.one_hot(y, 3).double(), STEP, THREAT)


def test_logit_pairing_is_both_losses_and_the_squared_difference():
    net, x, y = three_classes()
    spy = Spy()
    loss = recipes.alp(weight=0.7)(net, x, y, spy, THREAT)
    z, z_adv = (net(inputs).detach().numpy() for inputs in (x, spy.x_adv))
    entropies = [-np.log(softmax(logits)[np.arange(6), y.numpy()]).mean() for logits in (z, z_adv)]
    assert loss.item() == pytest.approx(sum(entropies) / 2 + 0.7 * ((z - z_adv) ** 2).mean(), abs=1e-9)


@pytest.mark.parametrize("make", [recipes.madry, recipes.mixed, recipes.multiplier, recipes.trades, recipes.alp])
def test_mixed_labels_of_one_class_are_labels(make):
    net, x, y = three_classes()
    losses = []
    for labels in (y, F.one_hot(y, 3).double()):
        torch.manual_seed(0)
        losses.append(make()(net, x, labels, STEP, THREAT))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("make", [recipes.mixed, recipes.multiplier, recipes.trades, recipes.alp])
def test_label_smoothing_reaches_the_loss(make):
    net, x, y = three_classes()
    smoothed = make(label_smoothing=0.2)(net, x, y, STEP, THREAT.with_eps(0.0))
    parts = {recipes.multiplier: 1.2}.get(make, 1.0)  # clean and attacked inputs are the same here
    torch.testing.assert_close(smoothed, parts * F.cross_entropy(net(x), y, label_smoothing=0.2))


@pytest.mark.parametrize("name", ["madry", "mixed", "multiplier", "trades", "mart", "alp"])
def test_certainty_does_not_become_nan(name):
    """Logits of a thousand: probabilities are exactly 0 and 1."""
    torch.manual_seed(0)
    net = nn.Linear(8, 3)
    with torch.no_grad():
        net.weight.mul_(1e3 / net.weight.abs().sum(1, keepdim=True)).mul_(torch.tensor([[1.0], [-1.0], [2.0]]))
    x, y = torch.rand(6, 8), torch.arange(6) % 3
    assert (net(x).softmax(1) == 0).any(), "saturated indeed"
    loss = recipes.RECIPES.build(name, {})(net, x, y, partial(advreg.attacks.craft, steps=3), THREAT)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters())


def test_logits_are_compared_in_float32_or_better():
    x = torch.rand(2, 8)
    half, double = (nn.Sequential(nn.Linear(8, 3)).to(dtype) for dtype in (torch.bfloat16, torch.float64))
    assert [z.dtype for z in base.clean_and_adversarial_logits(half, x.bfloat16(), x.bfloat16())] == [torch.float32] * 2
    assert [z.dtype for z in base.clean_and_adversarial_logits(double, x.double(), x.double())] == [torch.float64] * 2


@pytest.mark.parametrize("name", ["trades", "mart", "alp"])
def test_half_precision_keeps_the_loss_in_float32_and_every_gradient(name):
    torch.manual_seed(0)
    net, x, y = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), torch.rand(6, 8), torch.arange(6) % 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = recipes.RECIPES.build(name, {})(net, x, y, partial(advreg.attacks.craft, steps=2), THREAT)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mixed", {"ratio": 1.5}, "recipe.options.ratio is 1.5; allowed: less than or equal to 1"),
        ("multiplier", {"multiplier": -0.1}, "recipe.options.multiplier is -0.1; allowed: greater than or equal to 0"),
        ("trades", {"beta": float("nan")}, "recipe.options.beta is nan; allowed: a finite number"),
        (
            "trades",
            {"betta": 6.0},
            "recipe 'trades' has no option 'betta'; allowed: beta, label_smoothing, reference, task, forwards. Did you mean",
        ),
        ("mart", {"label_smoothing": 0.1}, "recipe 'mart' has no option 'label_smoothing'; allowed: beta"),
        ("alp", {"weight": "0.5"}, "recipe.options.weight is '0.5'"),
        ("ar_at", {"balance": 2.0}, "recipe.options.balance is 2.0; allowed: 'auto' or less than or equal to 1"),
        ("advprop", {"beta": 1.0}, "recipe 'advprop' has no option 'beta'; allowed: label_smoothing"),
        ("free", {"replays": 0}, "recipe.options.replays is 0; allowed: greater than or equal to 1"),
        ("gradalign", {"method": "finit"}, "recipe.options.method is 'finit'; allowed: 'finite' or 'double'"),
        ("pgi", {"weight": -1.0}, "recipe.options.weight is -1.0; allowed: greater than or equal to 0"),
        ("distill", {"temperature": 0.0, "robust": "x"}, "recipe.options.temperature is 0.0; allowed: greater than 0"),
        ("distill", {}, "distill has no teacher; give robust or standard"),
    ],
)
def test_wrong_options_are_one_line_in_a_file_and_in_python(name, options, message):
    for make in (lambda: recipes.RECIPES.build(name, options), lambda: getattr(recipes, name)(**options)):
        with pytest.raises(ConfigError) as error:
            make()
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_options_may_be_given_by_position():
    with pytest.raises(ConfigError, match=r"ratio is 2\.0"):
        recipes.mixed(2.0)


def test_pgi_normalises_start_and_end_apart_with_two_forwards(batch):
    x, y = batch
    network = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 2)).double().train()
    result = SimpleNamespace(x_adv=x + 0.05, x_start=x - 0.1)
    z_start, z_adv = network(result.x_start), network(result.x_adv)
    expected = F.cross_entropy(z_adv, y, label_smoothing=0.8) + 10 * F.mse_loss(z_adv, z_start)
    for forwards, apart in (("two", True), ("one", False)):
        loss = recipes.pgi(forwards=forwards)(network, x, y, lambda *_, **__: result, THREAT)
        assert torch.allclose(loss, expected) == apart


@pytest.mark.parametrize("name", ["trades", "mart", "multiplier"])
def test_two_forwards_normalise_clean_and_attacked_inputs_apart(name, batch):
    """On BatchNorm the losses differ, and two forwards are those of two calls; without it, nothing does."""
    x, y = batch

    def loss(network, forwards, attack):
        torch.manual_seed(3)
        return getattr(recipes, name)(forwards=forwards)(network, x, y, attack, THREAT)

    plain = nn.Linear(8, 2).double()
    torch.testing.assert_close(loss(plain, "one", Spy()), loss(plain, "two", Spy()))
    network, spy = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 2)).double().train(), Spy()
    statistics = {key: value.clone() for key, value in network.state_dict().items()}
    found = loss(network, "two", spy)
    network.load_state_dict(statistics)
    z, z_adv = network(x), network(spy.x_adv)
    log_p, log_q = z.log_softmax(1), z_adv.log_softmax(1)
    kl = (log_p.exp() * (log_p - log_q)).sum(1)
    own = log_p.exp().gather(1, y[:, None])[:, 0]
    rival = log_q.exp().scatter(1, y[:, None], 0.0).amax(1)
    expected = {
        "trades": F.cross_entropy(z, y) + 6 * kl.mean(),
        "mart": (F.cross_entropy(z_adv, y, reduction="none") - (1.0001 - rival).log() + 5 * kl * (1 - own)).mean(),
        "multiplier": F.cross_entropy(z, y) + 0.2 * F.cross_entropy(z_adv, y),
    }[name]
    torch.testing.assert_close(found, expected)
    network.load_state_dict(statistics)
    assert abs(loss(network, "one", Spy()) - found) > 1e-6

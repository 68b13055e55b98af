"""N-FGSM, the wrapper around any module, and recipes as a configuration names them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import advreg
from advreg.errors import ConfigError, ModelError, ThreatError
from advreg.training import inner, recipes
from advreg.training.regularizer import AdversarialRegularization
from tests.training import small

THREAT = advreg.ThreatModel("linf", eps=0.1)


def split_network() -> nn.Module:
    return recipes.split_batchnorm(small.network(), predictors=["1"])


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.rand(6, 8) * 0.2 + 0.4, torch.arange(6) % 3


def test_n_fgsm_steps_from_noise_and_does_not_come_back_to_the_ball(batch):
    x, y = batch
    model = nn.Linear(8, 3)
    found = inner.n_fgsm(model, x, y, THREAT, noise_scale=2.0, seed=5)
    noisy = THREAT.with_eps(0.2).random_start(x, torch.arange(6), 5)
    point = noisy.clone().requires_grad_()
    grad = torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)[0]
    torch.testing.assert_close(found.x_adv, (noisy + 0.1 * grad.sign()).clamp(0, 1))
    assert 0.2 < THREAT.distance(found.x_adv, x).max() <= 0.3 + 1e-6
    assert (found.forwards, found.backwards) == (6, 6)
    assert all(weight.grad is None for weight in model.parameters())


def test_n_fgsm_without_noise_is_fgsm(batch):
    x, y = batch
    model = nn.Linear(8, 3).eval()
    plain = advreg.attacks.craft(model, x, y, THREAT, steps=1, start="zero").x_adv
    torch.testing.assert_close(inner.n_fgsm(model, x, y, THREAT, noise_scale=0.0).x_adv, plain)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_n_fgsm_stays_in_the_box_and_within_its_reach_in_every_norm(norm):
    torch.manual_seed(0)
    x, y, model = torch.rand(6, 8), torch.arange(6) % 3, nn.Linear(8, 3)
    threat = advreg.ThreatModel(norm, eps=torch.tensor([0.0, 0.1, 0.2, 0.4, 0.6, 0.9]))
    found = inner.n_fgsm(model, x, y, threat, noise_scale=2.0).x_adv
    assert ((found >= 0) & (found <= 1)).all()
    assert (threat.distance(found, x) <= 3 * threat.eps + 1e-6).all()
    assert torch.equal(found[0], x[0])


def test_n_fgsm_draws_belong_to_examples(batch):
    x, y = batch
    model = nn.Linear(8, 3)
    attack = partial(inner.n_fgsm, model, threat=THREAT, seed=1)
    ids = torch.tensor([4, 9, 2, 7, 1, 5])
    whole = attack(x, y, ids=ids).x_adv
    torch.testing.assert_close(attack(x[2:4], y[2:4], ids=ids[2:4]).x_adv, whole[2:4])
    assert not torch.equal(attack(x, y, ids=ids + 1).x_adv, whole)


def test_n_fgsm_rejects_noise_below_zero(batch):
    with pytest.raises(ThreatError, match="noise_scale is -1"):
        inner.n_fgsm(nn.Linear(8, 3), *batch, THREAT, noise_scale=-1)


def test_wrapper_answers_as_the_model_and_trains_as_the_recipe(batch):
    x, y = batch
    model = nn.Linear(8, 3)
    wrapped = AdversarialRegularization(model, THREAT)
    assert torch.equal(wrapped(x), model(x))
    x_adv = advreg.attacks.craft(model, x, y, THREAT, steps=1, start="zero").x_adv
    torch.testing.assert_close(wrapped(x, y), F.cross_entropy(model(x), y) + 0.2 * F.cross_entropy(model(x_adv), y))
    trades = AdversarialRegularization(model, THREAT, recipe=recipes.trades(beta=0.0))
    torch.testing.assert_close(trades(x, y), F.cross_entropy(model(x), y))


def test_wrapper_shares_weights_and_modes_with_the_model(batch):
    model = small.network()
    wrapped = AdversarialRegularization(model, THREAT).train()
    x = batch[0].repeat(1, 8).view(6, 1, 8, 8)
    wrapped(x, batch[1]).backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert all(module.training for module in wrapped.modules())
    assert int(model[1].num_batches_tracked) == 1


@pytest.mark.parametrize(
    "changes",
    [
        ["recipe.name=mixed", "recipe.options.ratio=0.25"],
        ["recipe.name=trades", "recipe.options.beta=3", "attack.start=zero"],
        ["recipe.name=mart", "attack.name=n-fgsm", "attack.noise=1"],
        ["recipe.name=ar_at", f"model.name={__name__}:split_network"],
    ],
    ids=["mixed", "trades", "mart", "ar_at"],
)
def test_a_run_can_name_it(data, tmp_path, changes):
    run = advreg.fit(small.config(data, tmp_path / "run", "train.epochs=1", *changes))
    (record,) = run.read_log("metrics.jsonl")
    assert record["loss"] > 0
    assert advreg.load_model(str(run.path)).state_dict(), "other verbs can read it"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (["recipe.name=trade"], ConfigError, "Did you mean 'trades'"),
        (["recipe.name=mixed", "recipe.options.ratio=2"], ConfigError, "recipe.options.ratio is 2"),
        (["attack.name=n-fgsm", "attack.noise=-1"], ConfigError, "attack.noise is -1"),
        (["recipe.name=advprop"], ModelError, "has no split BatchNorm"),
    ],
)
def test_a_run_rejects_before_it_trains(data, tmp_path, changes, error, message):
    with pytest.raises(error) as raised:
        advreg.fit(small.config(data, tmp_path / "run", *changes))
    assert message in str(raised.value)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()

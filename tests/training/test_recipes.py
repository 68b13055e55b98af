"""Recipes minimise what their papers say, and the attack inside leaves no trace on the model."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import advreg
from advreg.errors import ConfigError
from advreg.training import eval_mode, recipes, weight_perturbation
from tests.training import small

THREAT = advreg.ThreatModel("linf", eps=0.1)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.rand(6, 1, 8, 8), torch.arange(6) % 3


def test_modes_come_back_exactly_even_after_an_error():
    model = small.network().train()
    model[1].eval()  # frozen by its owner
    before = [module.training for module in model.modules()]
    inside = []

    @eval_mode(model)
    def fail():
        inside.extend(module.training for module in model.modules())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any(inside)
    assert [module.training for module in model.modules()] == before
    assert len(set(before)) == 2, "some in train mode, some not"


def test_standard_is_the_cross_entropy_of_clean_inputs(batch):
    x, y = batch
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    loss = recipes.standard(label_smoothing=0.1)(model, x, y, _never, THREAT)
    assert torch.equal(loss, F.cross_entropy(model(x), y, label_smoothing=0.1))


def _never(*_: object, **__: object) -> None:
    raise AssertionError("standard training has no adversary")


@pytest.mark.parametrize(
    "attack",
    [
        partial(advreg.attacks.craft, steps=1, start="zero"),
        partial(advreg.pgd, steps=10),
        advreg.fgsm,
        advreg.mifgsm,
        recipes.bind_ids(partial(advreg.pgd, steps=10), torch.arange(6)),
        weight_perturbation.once(advreg.fgsm),
    ],
)
def test_madry_on_a_linear_model_meets_the_closed_form(batch, attack):
    """Two classes, a linear model: the worst case shifts the margin by eps times the l1 norm of the weights.

    It does so for examples that are wrong already, too, which an evaluation leaves alone.
    """
    x, y = batch[0] * 0.5 + 0.25, batch[1] % 2  # far from the box
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    loss = recipes.madry()(model, x, y, attack, THREAT)
    assert 0 < (model(x).argmax(1) == y).sum() < 6, "some right, some wrong"
    w, b = model[1].weight, model[1].bias
    margin = (x.flatten(1) @ (w[0] - w[1]) + b[0] - b[1]) * (1 - 2 * y)
    worst = margin - THREAT.eps * (w[0] - w[1]).abs().sum()
    torch.testing.assert_close(loss, F.softplus(-worst).mean())


def test_attack_sees_eval_mode_and_touches_nothing(batch):
    x, y = batch
    model = small.network().train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    x_adv = recipes.worst_case(model, x, y, advreg.pgd, THREAT)
    assert THREAT.contains(x_adv, x).all()
    assert not x_adv.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes


def test_loss_is_that_of_train_mode(batch):
    x, y = batch
    model = small.network().train()
    recipes.madry()(model, x, y, partial(advreg.pgd, steps=2), THREAT).backward()
    assert int(model[1].num_batches_tracked) == 1, "one forward in train mode: the loss's own"
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_each_step_starts_the_attack_somewhere_else(batch):
    x, y = batch
    seeds = []

    def attack(model, x, y, threat, *, objective, seed):
        seeds.append(seed)
        return advreg.fgsm(model, x, y, threat, objective=objective, seed=seed)

    for _ in range(5):
        recipes.worst_case(small.network(), x, y, attack, THREAT)
    torch.manual_seed(0)
    assert len(set(seeds)) == 5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("madrid", {}, "recipe.name is 'madrid'; allowed: standard, gaussian, madry"),
        ("madry", {"beta": 6.0}, "recipe 'madry' has no option 'beta'; allowed: label_smoothing"),
        ("madry", {"label_smooting": 0.1}, "Did you mean 'label_smoothing'"),
        ("madry", {"label_smoothing": 1.0}, "recipe.options.label_smoothing is 1.0; allowed: less than 1"),
        ("madry", {"label_smoothing": "much"}, "recipe.options.label_smoothing is 'much'"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ConfigError) as error:
        recipes.RECIPES.build(name, options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)

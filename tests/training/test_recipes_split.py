"""Split BatchNorm changes nothing until the routes part, and AR-AT and AdvProp are their formulas on it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import advreg
from advreg.errors import ConfigError, ModelError
from advreg.training import recipes, setup
from advreg.training.dry_run import dry_run
from advreg.training.finetune import fine_tune
from tests.training import small

THREAT = advreg.ThreatModel("linf", eps=0.1)
STEP = partial(advreg.attacks.craft, steps=1, start="zero")
PAIR = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.rand(12, 1, 8, 8), torch.arange(12) % 3


def network():
    """Return a split network whose routes answer differently; its dropout is off, so that answers can be repeated."""
    torch.manual_seed(1)
    model = recipes.split_batchnorm(small.network(), predictors=["1"])
    nn.init.constant_(model[1].clean.bias, 0.3)
    model[4].p = 0.0
    return model


def test_split_starts_as_the_original_on_both_routes(batch):
    plain = small.network().eval()
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    split = recipes.split_batchnorm(plain).eval()
    for route in ("clean", "adv"):
        with recipes.use_route(split, route):
            assert torch.equal(split(batch[0]), plain(batch[0]))
    assert isinstance(plain[1], nn.BatchNorm2d), "the original is left alone"
    assert all(torch.equal(before[name], tensor) for name, tensor in plain.state_dict().items())


def test_each_route_has_its_own_statistics_and_weights(batch):
    model = network().train()
    with recipes.use_route(model, "clean"):
        model(batch[0]).sum().backward()
    assert (int(model[1].clean.num_batches_tracked), int(model[1].adv.num_batches_tracked)) == (1, 0)
    assert model[1].adv.weight.grad is None
    assert model[1].clean.weight.grad is not None


def test_routes_nest_and_come_back_after_an_error():
    model, seen = network(), []

    @recipes.use_route(model, "clean")
    def fail():
        with recipes.use_route(model, "adv"):
            seen.append(model[1].route)
        seen.append(model[1].route)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [*seen, model[1].route] == ["adv", "clean", "adv"]


@pytest.mark.parametrize("route", ["clean", "adv"])
def test_merged_model_is_plain_and_answers_as_its_route(batch, route):
    model = network().eval()
    plain = recipes.merge_batchnorm(model, route)
    with recipes.use_route(model, route):
        assert torch.equal(plain(batch[0]), model(batch[0]))
    assert plain.state_dict().keys() == small.network().state_dict().keys()
    assert isinstance(model[1], recipes.SplitBatchNorm), "the split model is left alone"


def test_a_fast_target_of_a_split_model_answers_as_the_robust_route(batch):
    model = network().eval()
    torch.testing.assert_close(advreg.freeze(model)(batch[0]), model(batch[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: recipes.split_batchnorm(nn.Linear(2, 2)), "Linear has no BatchNorm to split"),
        (lambda: recipes.split_batchnorm(network()), "split already"),
        (lambda: recipes.split_batchnorm(small.network(), ["0"]), "no BatchNorm '0' for a predictor; allowed: 1"),
        (lambda: recipes.merge_batchnorm(small.network()), "has no split BatchNorm; make one with"),
        (lambda: recipes.ar_at()(small.network(), *PAIR, STEP, THREAT), "has no split BatchNorm"),
        (lambda: recipes.advprop()(small.network(), *PAIR, STEP, THREAT), "has no split BatchNorm"),
        (
            lambda: recipes.ar_at()(recipes.split_batchnorm(small.network()), *PAIR, STEP, THREAT),
            "ar_at needs predictors",
        ),
    ],
)
def test_what_cannot_be_is_one_line(act, message):
    with pytest.raises(ModelError) as error:
        act()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def by_route(model, x, y):
    """Return logits and pooled features of each route, computed without hooks, in eval mode."""
    x_adv = recipes.worst_case(model, x, y, STEP, THREAT)
    answers = []
    for norm, inputs in ((model[1].clean, x), (model[1].adv, x_adv)):
        features = norm(model[0](inputs)).relu()
        answers.append((model[5](features.flatten(1)), features.mean((2, 3))))
    return answers


@pytest.mark.parametrize("balance", ["auto", 0.3])
def test_ar_at_is_its_formula(batch, balance):
    x, y = batch
    model = network().eval()
    (z, clean), (z_adv, attacked) = by_route(model, x, y)
    share = float((z.argmax(1) == y).sum()) / len(y) if balance == "auto" else balance
    head = model[1].predictor
    pooled = head[3](head[2](head[1](head[0](attacked))))
    cosine = (pooled * clean).sum(1) / (pooled.norm(dim=1) * clean.norm(dim=1))
    expected = share * F.cross_entropy(z_adv, y) + (1 - share) * F.cross_entropy(z, y) + 7 * (1 - cosine).mean()
    loss = recipes.ar_at(invariance=7.0, balance=balance)(model, x, y, STEP, THREAT)
    torch.testing.assert_close(loss, expected)
    assert 0 < share < 1


def test_clean_features_are_asked_for_nothing(batch):
    """All weight on the attacked input: what is left of the clean route's gradient is exactly nothing."""
    model = network().train()
    recipes.ar_at(invariance=30.0, balance=1.0)(model, *batch, STEP, THREAT).backward()
    assert model[1].clean.weight.grad.abs().max() == 0
    assert all(weight.grad.abs().max() > 0 for weight in model[1].predictor[0].parameters())


def test_advprop_is_the_plain_sum(batch):
    x, y = batch
    model = network().eval()
    (z, _), (z_adv, _) = by_route(model, x, y)
    expected = F.cross_entropy(z, y) + F.cross_entropy(z_adv, y)
    torch.testing.assert_close(recipes.advprop()(model, x, y, STEP, THREAT), expected)


def test_the_adversary_meets_the_robust_route_whatever_the_caller_chose(batch):
    model, seen = network().eval(), []

    def attack(model, x, y, threat, **options):
        seen.append(model[1].route)
        return STEP(model, x, y, threat, **options)

    with recipes.use_route(model, "clean"):
        recipes.advprop()(model, *batch, attack, THREAT)
        assert model[1].route == "clean"
    assert seen == ["adv"]


@pytest.mark.parametrize(
    "changes",
    [["train.batch_size=33"], ["train.batch_size=10", "train.accumulate=4"]],
    ids=["the last of 100 images", "the last of each batch"],
)
def test_a_single_example_that_batchnorm_rejects_fails_first(data, tmp_path, changes):
    split = ["model.name=tests.training.small:split", "recipe.name=ar_at"]
    with pytest.raises(ConfigError, match=r"100 training images .* leave one example alone") as error:
        advreg.fit(small.config(data, tmp_path / "run", *split, *changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
    without = small.config(data, tmp_path / "run", *changes)  # BatchNorm2d has many values of one example
    dry_run(setup.prepare(without))


def test_parts_of_several_examples_are_tried_out_as_they_are(data, tmp_path):
    split = ["model.name=tests.training.small:split", "recipe.name=ar_at"]
    run = setup.prepare(small.config(data, tmp_path / "run", *split, "train.accumulate=4"))
    assert dry_run(run) is False, "all weights got a gradient"


ROUTES = ["recipe.name=ar_at", "model.predictor=1", "train.epochs=1"]


@pytest.mark.parametrize("route", ["adv", "clean"])
def test_a_run_saves_the_plain_network_of_its_route(data, tmp_path, route):
    run = advreg.fit(small.config(data, tmp_path / "run", *ROUTES, f"model.split={route}"))
    saved, trained = advreg.load_model(str(run.path)), torch.load(run / "checkpoint.pt", weights_only=True)["model"]
    assert saved.state_dict().keys() == small.network().state_dict().keys()
    for name, tensor in saved[1].state_dict().items():
        assert torch.equal(tensor, trained[f"1.{route}.{name}"])
        other = trained[f"1.{'clean' if route == 'adv' else 'adv'}.{name}"]
        assert name == "num_batches_tracked" or not torch.equal(tensor, other)
    tuned = fine_tune(small.config(data, tmp_path / "tuned", *ROUTES, f"model.split={route}"), run.path)
    assert (tuned.model.split, tuned.model.predictor) == (route, 1)
    assert setup.prepare(tuned).model[1].route == route


def test_last_batchnorms_get_the_predictors():
    network = advreg.load_model("zoo:preact-resnet18", width=0.0625)
    split = recipes.split_batchnorm(network, 3, "clean")
    found = {name: norm for name, norm in split.named_modules() if isinstance(norm, recipes.SplitBatchNorm)}
    assert [name for name, norm in found.items() if norm.predictor] == ["blocks.7.bn1", "blocks.7.bn2", "norm.0"]
    assert {norm.route for norm in found.values()} == {"clean"}
    assert not any(module.training for module in split.modules()), "in the mode of the original"
    with pytest.raises(ModelError, match="18 BatchNorms cannot have a predictor; there are 17"):
        recipes.split_batchnorm(network, 18)


def test_auto_balance_is_the_clean_accuracy_of_the_last_epoch(batch):
    """Epoch 1: 1/K. Epoch 2: hits over examples of all batches of epoch 1, also from a checkpoint."""
    x, y = batch
    model, recipe = network().eval(), recipes.ar_at(invariance=0.0)

    def loss_at(share):
        (z, _), (z_adv, _) = by_route(model, x, y)
        return share * F.cross_entropy(z_adv, y) + (1 - share) * F.cross_entropy(z, y)

    recipe.start_epoch(1)
    for _ in range(2):
        torch.testing.assert_close(recipe(model, x, y, STEP, THREAT), loss_at(1 / 3))
    recipe(model, x[:5], y[:5], STEP, THREAT)
    with recipes.use_route(model, "clean"):
        hits = model(x).argmax(1) == y
    restored = recipes.ar_at(invariance=0.0)
    restored.load_state_dict(recipe.state_dict())
    for each in (recipe, restored):
        each.start_epoch(2)
        share = float(2 * hits.sum() + hits[:5].sum()) / 29
        torch.testing.assert_close(each(model, x, y, STEP, THREAT), loss_at(share))

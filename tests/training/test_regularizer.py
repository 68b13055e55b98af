"""Adversarial regularization of a loss, without the loops that integrations add it to."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import advreg
from advreg.errors import ConfigError, DataError, MissingExtraError
from advreg.training import integrations
from advreg.training.regularizer import AdversarialRegularization

THREAT = advreg.ThreatModel("linf", 8 / 255)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3))


def images(n=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 4, 4, generator=generator), torch.arange(n) % 3


def attacked_loss(net, x, y, threat=THREAT):
    x_adv = advreg.attacks.craft(net, x, y, threat, steps=1, start="zero").x_adv
    return F.cross_entropy(net(x_adv), y)


def test_the_term_is_the_weighted_cross_entropy_on_attacked_inputs():
    net, (x, y) = network(), images()
    assert torch.equal(
        AdversarialRegularization(net, THREAT, multiplier=0.5).regularizer(x, y), 0.5 * attacked_loss(net, x, y)
    )


def test_eps_counts_in_pixels_where_the_loop_normalises():
    net, (x, y) = network(), images()
    mean, std = [0.5, 0.4, 0.3], [0.25, 0.2, 0.1]
    normalize = advreg.models.normalize.Normalize(mean, std)
    whole = nn.Sequential(normalize, net)
    model = AdversarialRegularization(net, THREAT, multiplier=1.0, mean=mean, std=std)
    assert torch.allclose(model.regularizer(normalize(x), y), attacked_loss(whole, x, y), atol=1e-6)


def test_preprocessing_is_mean_and_std_of_another_library():
    mean, std = [0.5, 0.4, 0.3], [0.25, 0.2, 0.1]
    net, (x, y) = network(), images()
    losses = [
        AdversarialRegularization(net, THREAT, **options).regularizer(x / 3, y)
        for options in ({"mean": mean, "std": std}, {"preprocessing": {"mean": mean, "std": std, "axis": -3}})
    ]
    assert torch.equal(*losses)
    with pytest.raises(ConfigError, match="both given"):
        AdversarialRegularization(net, THREAT, mean=mean, std=std, preprocessing=(mean, std))


def test_mean_and_std_may_be_tensors_of_any_shape():
    mean, std = [0.5, 0.4, 0.3], [0.25, 0.2, 0.1]
    net, (x, y) = network(), images()
    losses = [
        AdversarialRegularization(net, THREAT, mean=m, std=s).regularizer(x / 3, y)
        for m, s in ((mean, std), (torch.tensor(mean).view(3, 1, 1), torch.tensor(std)))
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("given", [{"std": [0.5] * 3}, {"mean": [0.5] * 3}, {"mean": [0.5] * 3, "std": [0.5]}])
def test_one_of_mean_and_std_alone_is_rejected(given):
    with pytest.raises(ConfigError, match=r"mean has \d numbers, std \d; give both, a number a channel, or neither"):
        AdversarialRegularization(network(), THREAT, **given)


def test_what_the_loop_has_frozen_stays_frozen():
    net, (x, y) = nn.Sequential(nn.BatchNorm2d(3), network()).train(), images()
    net[0].eval()
    AdversarialRegularization(net, THREAT, mean=[0.5] * 3, std=[0.5] * 3).regularizer(2 * x - 1, y)
    assert net.training
    assert not net[0].training
    assert torch.equal(net[0].running_mean, torch.zeros(3))


def test_inputs_outside_the_box_are_rejected_with_a_remedy():
    with pytest.raises(
        DataError,
        match=r"x spans .* outside the box \[0, 1\]; .*or give mean= and std=",
    ):
        AdversarialRegularization(network(), THREAT).regularizer(images()[0] * 4 - 2, images()[1])


def test_a_batch_that_is_no_pair_is_rejected():
    with pytest.raises(DataError, match=r"a batch is \(picture, class\), not a pair"):
        integrations.first_two({"picture": 1, "class": 2})


def test_robust_accuracy_works_in_inference_mode():
    net, (x, y) = network().eval(), images()
    expected = (~advreg.pgd(net, x, y, THREAT, steps=3).broken).float().mean()
    with torch.inference_mode():
        model = AdversarialRegularization(net, THREAT)
        assert torch.equal(model.robust_accuracy(x.clone(), y.clone(), 3), expected)


def test_missing_lightning_is_one_error_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "lightning.pytorch", raising=False)
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'advreg\[lightning\]'"):
        integrations.lightning(THREAT)


def test_loss_is_the_task_loss_plus_the_regularizer():
    net, (x, y) = network(), images()
    model = advreg.AdversarialRegularization(net, THREAT, multiplier=0.7)
    torch.testing.assert_close(model(x, y), F.cross_entropy(net(x), y) + model.regularizer(x, y))
    assert torch.equal(model(x), net(x))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_step_size_and_norm_equal_a_threat_of_one_step(norm):
    net, (x, y) = network(), images()
    model = AdversarialRegularization(net, step_size=0.05, norm=norm)
    whole = AdversarialRegularization(net, advreg.ThreatModel(norm, 0.05))
    assert torch.equal(model.regularizer(x, y), whole.regularizer(x, y))


def test_step_size_bounds_the_step_inside_a_threat():
    net, (x, y) = network(), images()
    model = AdversarialRegularization(net, THREAT, step_size=2 / 255, multiplier=1.0)
    torch.testing.assert_close(model.regularizer(x, y), attacked_loss(net, x, y, advreg.ThreatModel("linf", 2 / 255)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither a threat nor a step_size"),
        ({"threat": THREAT, "norm": "l2"}, "norm is 'l2', and the threat has its own, 'linf'"),
        ({"step_size": 0.1, "threat": THREAT, "attack": advreg.pgd}, "bind it: partial"),
        ({"threat": THREAT, "multiplier": -1.0}, "multiplier is -1.0; allowed: greater than or equal to 0"),
    ],
)
def test_options_that_exclude_each_other_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        AdversarialRegularization(network(), **options)


def test_old_names_warn_and_work():
    from advreg.training import hooks, wrap

    net, (x, y) = network(), images()
    with pytest.warns(DeprecationWarning, match=r"hooks.Term.* is now advreg.AdversarialRegularization"):
        term = hooks.Term(THREAT, weight=0.5)
    assert torch.equal(term(net, x, y), 0.5 * attacked_loss(net, x, y))
    with pytest.warns(DeprecationWarning, match=r"wrap.Regularized is now advreg.AdversarialRegularization"):
        assert wrap.Regularized is AdversarialRegularization
    with pytest.warns(DeprecationWarning, match=r"recipes.named is now advreg.training.recipes.RECIPES.build"):
        advreg.recipes.named("madry", {})

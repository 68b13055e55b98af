"""The term that hooks add to the losses of other people's loops, without those loops."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import advreg
from advreg.errors import ConfigError, DataError, MissingExtraError
from advreg.training import hooks

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
    assert torch.equal(hooks.Term(THREAT, weight=0.5)(net, x, y), 0.5 * attacked_loss(net, x, y))


def test_eps_counts_in_pixels_where_the_loop_normalises():
    net, (x, y) = network(), images()
    mean, std = [0.5, 0.4, 0.3], [0.25, 0.2, 0.1]
    normalize = advreg.models.normalize.Normalize(mean, std)
    whole = nn.Sequential(normalize, net)
    term = hooks.Term(THREAT, weight=1.0, mean=mean, std=std)
    assert torch.allclose(term(net, normalize(x), y), attacked_loss(whole, x, y), atol=1e-6)


def test_mean_and_std_may_be_tensors_of_any_shape():
    mean, std = [0.5, 0.4, 0.3], [0.25, 0.2, 0.1]
    made = hooks.Term(THREAT, mean=torch.tensor(mean).view(3, 1, 1), std=torch.tensor(std))
    net, (x, y) = network(), images()
    assert torch.equal(made(net, x / 3, y), hooks.Term(THREAT, mean=mean, std=std)(net, x / 3, y))


@pytest.mark.parametrize("given", [{"std": [0.5] * 3}, {"mean": [0.5] * 3}, {"mean": [0.5] * 3, "std": [0.5]}])
def test_one_of_mean_and_std_alone_is_refused(given):
    with pytest.raises(ConfigError, match=r"mean has \d numbers, std \d; give both, a number a channel, or neither"):
        hooks.Term(THREAT, **given)


def test_what_the_loop_has_frozen_stays_frozen():
    net, (x, y) = nn.Sequential(nn.BatchNorm2d(3), network()).train(), images()
    net[0].eval()
    hooks.Term(THREAT, mean=[0.5] * 3, std=[0.5] * 3)(net, 2 * x - 1, y)
    assert net.training
    assert not net[0].training
    assert torch.equal(net[0].running_mean, torch.zeros(3))


def test_inputs_outside_the_box_are_refused_with_what_to_do():
    with pytest.raises(DataError, match=r"x spans .* outside the box \[0, 1\]; .*give the hook the mean= and std="):
        hooks.Term(THREAT)(network(), images()[0] * 4 - 2, images()[1])


def test_a_batch_that_is_no_pair_is_refused():
    with pytest.raises(DataError, match=r"a batch is \(image, label\), not a pair"):
        hooks.first_two({"image": 1, "label": 2})


def test_withstood_works_in_inference_mode():
    net, (x, y) = network().eval(), images()
    expected = (~advreg.pgd(net, x, y, THREAT, steps=3).broken).float().mean()
    with torch.inference_mode():
        assert torch.equal(hooks.Term(THREAT).withstood(net, x.clone(), y.clone(), 3), expected)


def test_lightning_that_is_not_there_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'advreg\[lightning\]'"):
        hooks.lightning(THREAT)

"""CutMix: labels weigh what the windows cover, windows belong to examples, and attacks see the mixture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import advreg
from advreg.errors import DataError
from advreg.training import inner, recipes, setup
from advreg.training.cutmix import cutmix
from advreg.training.policies import Moment
from advreg.training.step import take_step
from tests.training import small

IDS = torch.arange(50)


def numbered(size=(7, 9)):
    """Images that say everywhere which one they are."""
    return (torch.arange(50.0) / 50).view(50, 1, 1, 1).expand(50, 2, *size), torch.arange(50) % 5


@pytest.mark.parametrize("window", [None, 1, 4, 20])
def test_label_weight_is_the_area(window):
    x, y = numbered()
    mixed, labels = cutmix(x, y, IDS, classes=5, seed=3, window=window)
    foreign = mixed != x
    assert torch.equal(foreign[:, 0], foreign[:, 1]), "all channels alike"
    area = foreign[:, 0].float().mean((1, 2))
    following = torch.roll(torch.arange(50), -1)
    for i in range(50):
        expected = (1 - area[i]) * F.one_hot(y[i], 5) + area[i] * F.one_hot(y[following[i]], 5)
        torch.testing.assert_close(labels[i], expected)
        inside = mixed[i][foreign[i]]
        assert (inside == x[following[i], 0, 0, 0]).all()
        rows, columns = foreign[i, 0].any(1).nonzero()[:, 0], foreign[i, 0].any(0).nonzero()[:, 0]
        if len(rows):
            box = foreign[i, 0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.all(), "one window"
            if window is not None:
                assert len(rows) <= window
                assert len(columns) <= window


def test_windows_have_their_side_where_the_border_does_not_cut_them():
    x, y = numbered((32, 32))
    mixed, _ = cutmix(x, y, IDS, classes=5, seed=0, window=20)
    area = (mixed != x)[:, 0].float().sum((1, 2))
    assert area.max() == 400
    assert area.min() >= 100, "a corner's quarter at least"


def test_shares_are_spread_over_everything():
    x, y = numbered((32, 32))
    areas = torch.cat([(cutmix(x, y, IDS, classes=5, seed=s)[0] != x)[:, 0].float().mean((1, 2)) for s in range(20)])
    assert areas.min() < 0.02
    assert areas.max() > 0.75
    assert 0.3 < areas.mean() < 0.5, "half, less what borders cut"


def test_windows_belong_to_examples():
    x, y = numbered()
    whole = cutmix(x, y, IDS, classes=5, seed=3)[0] != x
    part = cutmix(x[10:20], y[10:20], IDS[10:20], classes=5, seed=3)[0] != x[10:20]
    assert torch.equal(part, whole[10:20])
    assert not torch.equal(cutmix(x, y, IDS, classes=5, seed=4)[0] != x, whole)


def test_attack_and_loss_see_the_mixed_label():
    torch.manual_seed(0)
    x, y, net, seen = torch.rand(6, 1, 8, 8), torch.arange(6) % 3, small.network(), []
    mixed, labels = cutmix(x, y, torch.arange(6), classes=3, seed=0)

    def attack(model, x, y, threat, **options):
        seen.append((x, y))
        return advreg.attacks.craft(model, x, y, threat, steps=1, **options)

    threat = advreg.ThreatModel("linf", 0.1)
    for make in (recipes.madry, recipes.multiplier, recipes.alp):
        make()(net, mixed, labels, attack, threat).backward()
        assert torch.equal(seen[-1][0], mixed)
        assert torch.equal(seen[-1][1], labels)
    with pytest.raises(DataError, match="mart was given labels"):
        recipes.mart()(net, mixed, labels, attack, threat)


@pytest.mark.parametrize("name", ["ar_at", "advprop", "free", "gradalign", "trades", "distill"])
def test_other_recipes_take_mixed_labels_too(name):
    torch.manual_seed(0)
    net = (
        recipes.split_batchnorm(small.network(), predictors=["1"]) if name in ("ar_at", "advprop") else small.network()
    )
    options = {"robust": small.network()} if name == "distill" else {}
    x, y = cutmix(torch.rand(6, 1, 8, 8), torch.arange(6) % 3, torch.arange(6), classes=3, seed=0)
    loss = recipes.RECIPES.build(name, options)(net, x, y, advreg.attacks.craft, advreg.ThreatModel("linf", 0.1))
    loss.backward()
    assert torch.isfinite(loss)


def test_labels_are_as_wide_as_the_answer_of_a_network_that_knows_more_classes(data, tmp_path):
    made = setup.prepare(small.config(data, tmp_path / "run", "data.cutmix=true", "model.options.classes=5"))
    made.model.train()
    seen = []

    def attack(model, x, y, threat, **options):
        seen.append(y)
        return inner.Untouched(x)

    take_step(replace(made, attack=attack), next(made.batches.epoch(1)), Moment(1, 0, 15))
    assert seen[0].shape == (20, 5)
    torch.testing.assert_close(seen[0][:, :3].sum(1), torch.ones(20))
    assert (seen[0] != seen[0].round()).any(), "some are mixed"


def test_what_cannot_be_mixed_is_rejected_in_one_line():
    x, y = numbered()
    for bad in ((x.flatten(1), y, None), (x, F.one_hot(y, 5).float(), None), (x, y, 0)):
        with pytest.raises(DataError, match="give images") as error:
            cutmix(bad[0], bad[1], IDS, classes=5, seed=0, window=bad[2])
        assert "\n" not in str(error.value)

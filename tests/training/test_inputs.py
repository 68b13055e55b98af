"""Training batches in every clear form give the loss of tensors; those outside the box, or that do not fit, raise one line."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from advreg import ThreatModel, attacks, normalized, recipes
from advreg.errors import AdvregError, DataError, ModelError
from advreg.training import inner, policies
from advreg.training.policies import Moment
from advreg.training.recipes import aligned, distill
from advreg.training.recipes.base import divergence, pairing
from advreg.training.regularizer import AdversarialRegularization

THREAT = ThreatModel("linf", 8 / 255)
X = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CRAFT = functools.partial(attacks.craft, steps=2)


def network(classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


def split(classes: int = 3) -> nn.Module:
    return recipes.split_batchnorm(network(classes), predictors=["2"])


def teacher() -> nn.Module:
    return network().eval()


# name -> network, recipe, attack
RECIPES = {
    "standard": (network, recipes.standard(), None),
    "madry": (network, recipes.madry(), CRAFT),
    "madry by pgd": (network, recipes.madry(), functools.partial(attacks.pgd, steps=2)),
    "mixed": (network, recipes.mixed(), CRAFT),
    "multiplier": (network, recipes.multiplier(), CRAFT),
    "trades": (network, recipes.trades(), CRAFT),
    "mart": (network, recipes.mart(), CRAFT),
    "alp": (network, recipes.alp(), CRAFT),
    "ar_at": (split, recipes.ar_at(), CRAFT),
    "advprop": (split, recipes.advprop(), CRAFT),
    "pgi": (network, recipes.pgi(), inner.FgsmPgi()),
    "gradalign": (network, recipes.gradalign(), CRAFT),
    "gradalign double": (network, recipes.gradalign(method="double"), CRAFT),
    "aligned trades": (network, aligned(recipes.trades()), CRAFT),
    "distill": (network, distill(robust=teacher()), CRAFT),
    "own attack": (network, recipes.madry(), lambda model, x, y, threat, **_: inner.Untouched(x)),
}
FREE = "free"
CRAFTERS = {
    "craft": attacks.craft,
    "near": inner.trades_pgd,
    "friendly": inner.friendly_pgd,
    "n_fgsm": inner.n_fgsm,
    "stored": lambda *batch: inner.FgsmPgi()(*batch),
}


def loss_of(name: str, x, y, classes: int = 3, head: nn.Module | None = None) -> torch.Tensor:
    if name == FREE:
        make, recipe, attack = network, recipes.free(), None
    else:
        make, recipe, attack = RECIPES[name]
    model = make(classes) if head is None else nn.Sequential(make(classes), head)
    torch.manual_seed(7)
    if isinstance(attack, inner.FgsmPgi):
        attack = inner.FgsmPgi()
    return recipe(model, x, y, attack, THREAT)


OUTSIDE = {
    "normalised": (
        (X - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None],
        r"advreg.normalized\(model",
    ),
    "0..255": (255 * X, "divide images by 255"),
    "NaN": (torch.where(X > 0.9, torch.nan, X), "NaN or infinity"),
}


@pytest.mark.parametrize("case", OUTSIDE)
@pytest.mark.parametrize("name", sorted({*RECIPES, FREE} - {"standard"}))
def test_recipes_reject_inputs_outside_the_box(name: str, case: str) -> None:
    x, words = OUTSIDE[case]
    with pytest.raises(DataError, match=words) as caught:
        loss_of(name, x, Y)
    assert "\n" not in str(caught.value)


def test_one_example_outside_the_box_is_enough_for_mixed() -> None:
    x = X.clone()
    x[0, 0, 0, 0] = 7.0  # in the part that is not attacked
    with pytest.raises(DataError, match="outside the box"):
        recipes.mixed(0.25)(network(), x, Y, CRAFT, THREAT)


def test_plain_training_has_no_box() -> None:
    x, _ = OUTSIDE["normalised"]
    assert torch.equal(loss_of("standard", x, Y), nn.functional.cross_entropy(network()(x), Y))
    assert torch.equal(recipes.standard()(network(), x, Y, None, None), loss_of("standard", x, Y))


@pytest.mark.parametrize("case", OUTSIDE)
@pytest.mark.parametrize("name", CRAFTERS)
def test_crafted_points_reject_inputs_outside_the_box(name: str, case: str) -> None:
    x, words = OUTSIDE[case]
    with pytest.raises(DataError, match=words):
        CRAFTERS[name](network(), x, Y, THREAT)


@pytest.mark.parametrize("case", OUTSIDE)
def test_regularizers_and_policies_reject_inputs_outside_the_box(case: str) -> None:
    x, words = OUTSIDE[case]
    batch = (network(), x, Y, torch.arange(12), CRAFT, THREAT, Moment(1, 9, 10))
    for call in (
        lambda: AdversarialRegularization(network(), THREAT)(x, Y),
        lambda: AdversarialRegularization(network(), THREAT).regularizer(x, Y),
        lambda: policies.POLICIES.build("iaat", {})(*batch),
        lambda: policies.POLICIES.build("ldes", {})(*batch),
    ):
        with pytest.raises(DataError, match=words):
            call()


def test_rounding_is_no_reason_to_reject() -> None:
    undone = (X / X.max() - 0.485) / 0.229 * 0.229 + 0.485
    assert float(undone.max()) != 1.0 or float((undone + 1e-7).max()) > 1.0
    assert attacks.craft(network(), undone + 1e-7, Y, THREAT).x_adv.max() <= 1.0


GOOD = {
    "x as NumPy": (X.numpy(), Y),
    "x as lists": (X.tolist(), Y),
    "y as a list": (X, Y.tolist()),
    "y as NumPy": (X, Y.numpy()),
    "y int32": (X, Y.int()),
    "y uint8": (X, Y.byte()),
    "y a column": (X, Y[:, None]),
}


@pytest.mark.parametrize("name", [*RECIPES, FREE])
def test_every_clear_form_gives_the_loss_of_tensors(name: str) -> None:
    expected = loss_of(name, X, Y)
    for form, (x, y) in GOOD.items():
        assert torch.equal(loss_of(name, x, y), expected), form


SOFT = nn.functional.one_hot(Y, 3) * 0.9 + 0.1 / 3


@pytest.mark.parametrize("name", sorted({*RECIPES, FREE} - {"mart"}))
def test_probabilities_of_any_float_type_serve_as_labels(name: str) -> None:
    torch.testing.assert_close(loss_of(name, X, SOFT.double()), loss_of(name, X, SOFT))


@pytest.mark.parametrize("name", CRAFTERS)
def test_crafted_points_take_every_clear_form(name: str) -> None:
    expected = CRAFTERS[name](teacher(), X, Y, THREAT).x_adv
    for form, (x, y) in GOOD.items():
        assert torch.equal(CRAFTERS[name](teacher(), x, y, THREAT).x_adv, expected), form


BAD = {
    "an empty batch": (X[:0], Y[:0], "at least one example"),
    "an empty batch of lists": ([], [], "x is"),
    "labels out of range": (X, Y + 3, "label 5 is out of range: the model has 3 classes"),
    "negative labels": (X, Y - 1, "label -1"),
    "floats as labels": (X, Y.float(), "labels 0 to classes-1"),
    "floats in a column": (X, Y[:, None].float(), "labels 0 to classes-1"),
    "labels of fewer examples": (X, Y[:5], r"y is \(5,\)"),
    "probabilities of other classes": (
        X,
        torch.rand(12, 7).softmax(1),
        "7 classes, the model has 3|mart was given labels",
    ),
    "bytes": ((255 * X).byte(), Y, r"images.float\(\) / 255"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("name", [*RECIPES, FREE])
def test_recipes_reject_what_does_not_fit_in_one_line(name: str, case: str) -> None:
    x, y, words = BAD[case]
    with pytest.raises(DataError, match=words) as caught:
        loss_of(name, x, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("name", CRAFTERS)
def test_crafted_points_reject_what_does_not_fit(name: str, case: str) -> None:
    x, y, words = BAD[case]
    with pytest.raises(DataError, match=words):
        CRAFTERS[name](network(), x, y, THREAT)


@pytest.mark.parametrize("name", sorted({*RECIPES, FREE} - {"mart", "madry by pgd"}))
def test_ignored_labels_count_for_nothing(name: str) -> None:
    ignored = torch.where(Y == 0, -100, Y)
    assert torch.isfinite(loss_of(name, X, ignored))


@pytest.mark.parametrize(("name", "words"), [("mart", r"x\[y >= 0\]"), ("madry by pgd", "label -100")])
def test_ignored_labels_are_rejected_where_they_have_no_meaning(name: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        loss_of(name, X, torch.where(Y == 0, -100, Y))
    with pytest.raises(DataError, match="out of range"):
        attacks.craft(network(), X, torch.where(Y == 0, -100, Y), THREAT, objective=attacks_margin)


def attacks_margin(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return z.gather(1, (y[:, None] + 1) % 3)[:, 0]


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"standard", "own attack"}))
def test_recipes_that_attack_notice_a_softmax(name: str) -> None:
    make, recipe, attack = RECIPES[name]
    model = nn.Sequential(make(), nn.Softmax(1)).eval()
    with pytest.raises(ModelError, match="drop the softmax"):
        recipe(model, X, Y, attack, THREAT)


@pytest.mark.parametrize("name", ["gradalign", "gradalign double", "aligned trades", "madry", "trades"])
def test_losses_are_the_same_without_gradients(name: str) -> None:
    expected = loss_of(name, X, Y)
    with torch.no_grad():
        found = loss_of(name, X, Y)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach())


def test_one_output_column_raises_one_line() -> None:
    for call in (lambda: loss_of("madry", X, Y * 0, 1), lambda: attacks.craft(network(1), X, Y * 0, THREAT)):
        with pytest.raises(ModelError, match=r"2 classes or more") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_masked_classes_add_nothing_to_losses() -> None:
    z, z_adv = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(2)).unbind()
    closed = torch.full((4, 2), -torch.inf)
    wide, wide_adv = torch.cat([z, closed], 1), torch.cat([z_adv, closed], 1)
    torch.testing.assert_close(divergence(wide, wide_adv), divergence(z, z_adv))
    torch.testing.assert_close(pairing(wide, wide_adv) * 5, pairing(z, z_adv) * 3)


def test_normalized_is_the_loop_s_normalisation_with_eps_in_pixels() -> None:
    net = network().eval()
    outside, _ = OUTSIDE["normalised"]
    model = normalized(net, MEAN, STD)
    torch.testing.assert_close(model(X), net(outside))
    moved = attacks.craft(model, X, Y, THREAT, steps=3).x_adv - X
    assert float(moved.abs().max()) <= 8 / 255 * (1 + 1e-6)
    assert not model.training
    assert normalized(network().train(), MEAN, STD).training


@pytest.mark.parametrize("form", [tuple, list, torch.tensor, np.array, lambda v: torch.tensor(v).view(3, 1, 1)])
def test_normalized_takes_numbers_in_every_form(form) -> None:
    net = network().eval()
    torch.testing.assert_close(normalized(net, form(MEAN), form(STD))(X), normalized(net, MEAN, STD)(X))


def test_normalized_keeps_what_it_is_given() -> None:
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    net[0].eval()
    model = normalized(net, 0.5, 0.25)
    assert not net[0].training
    assert model.net is net
    x = torch.rand(5, 4)
    torch.testing.assert_close(model(x), net((x - 0.5) / 0.25))  # a table: one number for all features
    half = normalized(nn.Linear(4, 3).bfloat16(), 0.5, 0.25)
    assert half(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: normalized(network(), [0.5], [0.5, 0.5]), "as long as each other"),
        (lambda: normalized(network(), [0.5], [0.0]), "std positive"),
        (lambda: normalized(network(), [], []), "std positive"),
        (lambda: normalized(network(), [float("nan")], [1.0]), "finite"),
        (lambda: normalized(lambda x: x, 0.5, 0.5), "it must be a torch.nn.Module"),
        (lambda: normalized(network(), MEAN, STD)(X[:, :1]), "have 1 channels, mean and std have 3 numbers"),
    ],
)
def test_normalized_rejects_what_cannot_be_in_one_line(make, words: str) -> None:
    with pytest.raises(AdvregError, match=words) as caught:
        make()
    assert isinstance(caught.value, ModelError)
    assert "\n" not in str(caught.value)

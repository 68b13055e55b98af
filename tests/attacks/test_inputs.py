"""Inputs in every clear form give the result of tensors; anything else raises one line, from every attack."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

import advreg
from advreg import ThreatModel, attacks
from advreg.attacks.inputs import into_box_once
from advreg.attacks.minimum_norm.l0 import SparseThreat
from advreg.attacks.patch import patch
from advreg.attacks.spatial import spatial
from advreg.attacks.verification import accepting_probabilities
from advreg.errors import AdvregError, DataError, ModelError
from advreg.objectives import cross_entropy, dlr, kl, margin, targeted_dlr

X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
LINF = ThreatModel("linf", 0.05)


def network(classes: int = 5, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, classes)).eval().to(dtype)


NET = network()
Y = NET(X).argmax(1)


def crafted(model, x, y, threat, **options):
    return attacks.craft(model, x, y, threat, steps=2, **options)


def bisected(model, x, y, threat):
    found = attacks.ddn(model, X, Y, threat.with_eps(0.0), steps=5)
    return attacks.refine_by_bisection(found, model, x, y, threat, binary_search_steps=2)


def tightened(model, x, y, threat):
    found = attacks.ddn(model, X, Y, threat.with_eps(0.0), steps=5)
    return attacks.refine_by_radius(found, model, x, y, threat, rounds=1)


L2 = ThreatModel("l2", 0.3)
ATTACKS = {
    "fgsm": (attacks.fgsm, LINF),
    "pgd": (functools.partial(attacks.pgd, steps=3), LINF),
    "mifgsm": (functools.partial(attacks.mifgsm, steps=3), LINF),
    "nifgsm": (functools.partial(attacks.nifgsm, steps=3), LINF),
    "annealed": (functools.partial(attacks.cosine_pgd, steps=3), LINF),
    "shrinking_pgd": (functools.partial(attacks.shrinking_pgd, schedule=((2, 2), (1, 3))), LINF),
    "apgd": (functools.partial(attacks.apgd, steps=5), LINF),
    "apgd l1": (functools.partial(attacks.apgd, steps=5), ThreatModel("l1", 1.0)),
    "apgd_targeted": (functools.partial(attacks.apgd_targeted, steps=5, target_classes=2), LINF),
    "fab": (functools.partial(attacks.fab, steps=3), L2),
    "fmn": (functools.partial(attacks.fmn, steps=3), L2),
    "fmn l0": (functools.partial(attacks.fmn, steps=3), SparseThreat(4)),
    "ddn": (functools.partial(attacks.ddn, steps=3), L2),
    "deepfool": (functools.partial(attacks.deepfool, steps=3), L2),
    "carlini": (functools.partial(attacks.carlini_wagner, steps=3, binary_search_steps=2), L2),
    "bisected": (bisected, L2),
    "tightened": (tightened, L2),
    "square": (functools.partial(attacks.square, queries=20), LINF),
    "spsa": (functools.partial(attacks.spsa, steps=2, samples=4), LINF),
    "random_search": (functools.partial(attacks.random_search, queries=3), LINF),
    "hopskipjump": (functools.partial(attacks.hopskipjump, queries=60), L2),
    "transfer": (functools.partial(attacks.transfer, surrogate=network()), LINF),
    "spatial": (lambda model, x, y, threat: spatial(model, x, y, grid=(3, 1)), LINF),
    "patch": (lambda model, x, y, threat: patch(model, x, y, size=3, steps=2, places=2), LINF),
    "craft": (crafted, LINF),
}
GOOD = {
    "x as NumPy": (X.numpy(), Y),
    "x as lists": (X.tolist(), Y),
    "x as a list of tensors": (list(X), Y),
    "x in NumPy that may not be written": (np.frombuffer(X.numpy().tobytes(), np.float32).reshape(X.shape), Y),
    "y as a list": (X, Y.tolist()),
    "y as NumPy": (X, Y.numpy()),
    "y int32": (X, Y.int()),
    "y uint8": (X, Y.byte()),
    "y a column": (X, Y[:, None]),
    "y a column of a list": (X, Y[:, None].tolist()),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_other_input_forms_give_the_result_of_tensors(name: str) -> None:
    attack, threat = ATTACKS[name]
    expected = attack(NET, X, Y, threat).x_adv
    for form, (x, y) in GOOD.items():
        assert torch.equal(attack(NET, x, y, threat).x_adv, expected), form


@pytest.mark.parametrize("name", ATTACKS)
def test_float64_inputs_fit_a_float32_network(name: str) -> None:
    attack, threat = ATTACKS[name]
    points = attack(NET, X.double(), Y, threat).x_adv
    assert points.dtype == (
        torch.float32 if name in ("bisected", "tightened") else torch.float64
    )  # as what they refine


TABLE = torch.rand(4, 4, generator=torch.Generator().manual_seed(4))
OTHER_CLASSES = "7 classes, the model has 5|label . is out of range"
BAD = {
    "y floats in a column": (NET, X, Y[:, None].float(), DataError, r"y is torch.float32 \(4, 1\)"),
    "y floats": (NET, X, Y.float(), DataError, "labels 0 to classes-1"),
    "y probabilities of other classes": (
        NET,
        X,
        torch.rand(4, 7).softmax(1),
        DataError,
        "7 classes, the model has 5|label . is out of range",
    ),
    "y no probabilities": (NET, X, torch.rand(4, 5) + 1, DataError, "not probabilities"),
    "y one-hot integers": (NET, X, torch.eye(5)[Y].long(), DataError, r"y is torch.int64 \(4, 5\)"),
    "y out of range": (NET, X, Y + 5, DataError, "the model has 5 classes, 0 to 4"),
    "y negative": (NET, X, Y - 5, DataError, "label"),
    "y of another length": (NET, X, Y[:3], DataError, r"y is \(3,\)"),
    "y a number": (NET, X, 3, DataError, r"y is \(\)"),
    "y text": (NET, X, ["cat"] * 4, DataError, "not numbers"),
    "y nothing": (NET, X, None, DataError, "not numbers"),
    "x nothing": (NET, None, Y, DataError, "not numbers"),
    "x ragged": (NET, [[0.1], [0.1, 0.2]], Y[:2], DataError, "not numbers in rows of equal length"),
    "x uint8": (NET, (255 * X).byte(), Y, DataError, r"images.float\(\) / 255"),
    "x uint8 in NumPy": (NET, (255 * X).byte().numpy(), Y, DataError, r"images.float\(\) / 255"),
    "an empty batch": (NET, X[:0], Y[:0], DataError, "at least one example"),
    "x 0..255": (NET, 255 * X, Y, DataError, "divide images by 255"),
    "x normalised": (NET, (X - 0.5) / 0.2, Y, DataError, r"advreg.normalized\(model, mean, std\)"),
    "x a rounding outside": (NET, X / X.max() + 1e-3, Y, DataError, r"x.clamp\(0, 1\)"),
    "x NaN": (NET, torch.where(X > 0.9, torch.nan, X), Y, DataError, "NaN or infinity in"),
    "x infinite": (NET, torch.where(X > 0.9, torch.inf, X), Y, DataError, "NaN or infinity in"),
    "a model of one output": (network(1), X, Y * 0, ModelError, r"one logit: advreg.models.one_logit"),
    "a softmax": (nn.Sequential(network(), nn.Softmax(1)).eval(), X, Y, ModelError, "drop the softmax"),
    "a model elsewhere": (network().to("meta"), X, Y, ModelError, "the model is on meta, the inputs are on cpu"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_anything_else_raises_one_line(name: str) -> None:
    attack, threat = ATTACKS[name]
    for case, (model, x, y, kind, words) in BAD.items():
        if (name, case) in ALLOWED:
            continue
        with pytest.raises(AdvregError, match=words) as caught:
            attack(model, x, y, threat)
        assert isinstance(caught.value, kind), case
        assert "\n" not in str(caught.value), case


ALLOWED = {
    ("hopskipjump", "a softmax"),  # it uses labels only
    ("craft", "y no probabilities"),  # values of soft labels would cost a second reduction at every training step
}


@pytest.mark.parametrize("name", ["pgd", "fab", "square", "craft"])
def test_ambiguous_radii_raise_one_line(name: str) -> None:
    attack, _ = ATTACKS[name]
    model, norm = nn.Linear(4, 3).eval(), "l2" if name == "fab" else "linf"
    radii, y = torch.full((4,), 0.05), model(TABLE).argmax(1)
    if name != "square":  # which needs no gradient, but images
        with pytest.raises(DataError, match=r"4 radii for 4 examples of 4 features.*eps\[:, None\]"):
            attack(model, TABLE, y, ThreatModel(norm, radii))
        expected = attack(model, TABLE, y, ThreatModel(norm, 0.05)).x_adv
        for clear in (ThreatModel(norm, radii[:, None]), ThreatModel(norm, 0.05).with_eps(radii)):
            assert torch.equal(attack(model, TABLE, y, clear).x_adv, expected)
    with pytest.raises(DataError, match="2 radii for 4 examples"):
        attack(NET, X, Y, ThreatModel(norm, radii[:2]))


@pytest.mark.parametrize(("ids", "words"), [([1, 2], r"\(2,\) for 4"), ([0.5] * 4, "one integer for each")])
def test_ids_that_do_not_fit_raise_one_line(ids, words: str) -> None:
    for attack in (attacks.pgd, attacks.ddn, attacks.craft, attacks.hopskipjump):
        with pytest.raises(DataError, match=words):
            attack(NET, X, Y, L2, ids=ids)
    assert torch.equal(
        attacks.pgd(NET, X, Y, L2, ids=[3, 2, 1, 0]).x_adv,
        attacks.pgd(NET, X, Y, L2, ids=torch.arange(4).flip(0)).x_adv,
    )


def test_verify_accepts_the_inputs_of_attacks() -> None:
    found = attacks.pgd(NET, X, Y, LINF)
    expected = attacks.verify(NET, X, found.x_adv, Y, LINF)
    for x, y in GOOD.values():
        assert torch.equal(attacks.verify(NET, x, found.x_adv.numpy(), y, LINF), expected)
    with pytest.raises(DataError, match=r"x_adv is \(3, 1, 8, 8\), x is \(4, 1, 8, 8\)"):
        attacks.verify(NET, X, X[:3], Y, LINF)
    with pytest.raises(DataError, match="out of range"):
        attacks.verify(NET, X, X, Y + 5, LINF)
    outside = attacks.verify(NET, X, 3 - X, Y, LINF)
    assert not outside.any()  # a point outside the box is no error: it breaks nothing


class Masked(nn.Module):
    """A network with extra classes that a mask of -inf rules out."""

    def __init__(self, inner: nn.Module, extra: int) -> None:
        super().__init__()
        self.inner, self.extra = inner, extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.inner(x)
        return torch.cat([z, z.new_full((len(z), self.extra), -torch.inf)], 1)


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - {"bisected", "tightened"}))
def test_classes_masked_by_minus_infinity_have_no_effect(name: str) -> None:
    attack, threat = ATTACKS[name]
    plain, masked = attack(NET, X, Y, threat), attack(Masked(NET, 4).eval(), X, Y, threat)
    assert torch.equal(plain.x_adv, masked.x_adv)


@pytest.mark.parametrize("objective", [cross_entropy, margin, dlr])
def test_objectives_ignore_masked_classes(objective) -> None:
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.arange(6) % 5
    masked = torch.cat([z, z.new_full((6, 2), -torch.inf)], 1)
    torch.testing.assert_close(objective(masked, y), objective(z, y))
    grads = [torch.autograd.grad(objective(each, y).sum(), z)[0] for each in (masked, z)]
    torch.testing.assert_close(*grads)


def test_ratios_with_too_few_classes_are_gaps() -> None:
    z = torch.tensor([[2.0, 1.0, -torch.inf, -torch.inf]])
    assert dlr(z, torch.tensor([0])).item() == -1.0
    assert targeted_dlr(z, torch.tensor([[0, 1]])).item() == -1.0
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    torch.testing.assert_close(kl(z, p), kl(z[:, :2], p[:, :2]))


def test_logits_that_sum_to_one_are_accepted() -> None:
    model = nn.Linear(2, 2, bias=False).eval()
    model.weight.data = torch.eye(2)
    x, y = torch.tensor([[0.6, 0.4], [0.0, 1.0]]), torch.tensor([0, 1])
    assert attacks.pgd(model, x, y, ThreatModel("linf", 0.2)).broken.tolist() == [True, False]
    assert attacks.ddn(model, x[:1], y[:1], ThreatModel("l2", 0.2)).broken.tolist() == [True]


def test_score_only_models_may_return_probabilities() -> None:
    soft = nn.Sequential(NET, nn.Softmax(1)).eval()

    def service(x: torch.Tensor) -> torch.Tensor:
        return soft(x)

    service.score_only = True
    assert attacks.square(service, X, Y, LINF, queries=5).x_adv.shape == X.shape
    with accepting_probabilities():
        assert attacks.pgd(soft, X, Y, LINF, steps=2).x_adv.shape == X.shape
    with pytest.raises(ModelError, match="drop the softmax"):
        attacks.pgd(soft, X[:1], Y[:1], LINF, steps=2)


def test_training_batch_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = []
    aminmax = torch.aminmax
    monkeypatch.setattr(torch, "aminmax", lambda x: checks.append(len(x)) or aminmax(x))
    x = X.clone()
    for _ in range(3):
        into_box_once(x, (0.0, 1.0))
    assert checks == [4]
    into_box_once(x, (-1.0, 1.0))  # another box
    x.mul_(2)
    with pytest.raises(DataError, match="outside the box"):
        into_box_once(x, (-1.0, 1.0))
    with torch.inference_mode():
        for _ in range(2):
            into_box_once(X.clone(), (0.0, 1.0))
    assert checks == [4] * 5


@pytest.mark.parametrize("call", ["pgd", "craft", "recipe", "regularizer"])
def test_rounding_beyond_the_box_is_clamped(call: str) -> None:
    x, limit = X.clone(), 1.0 + 5e-4
    x[0, 0, 0, 0] = limit
    net = nn.Sequential(nn.Flatten(), nn.Linear(X[0].numel(), 3)).eval()
    calls = {
        "pgd": lambda x: attacks.pgd(net, x, Y % 3, LINF, steps=2, early_stop=False).x_adv,
        "craft": lambda x: attacks.craft(net, x, Y % 3, LINF, steps=2).x_adv,
        "recipe": lambda x: advreg.recipes.madry()(net, x, Y % 3, functools.partial(attacks.craft, steps=2), LINF),
        "regularizer": lambda x: advreg.AdversarialRegularization(net, LINF).regularizer(x, Y % 3),
    }
    torch.manual_seed(0)
    found = calls[call](x)
    torch.manual_seed(0)
    assert torch.equal(found, calls[call](x.clamp(0, 1)))
    x[0, 0, 0, 0] = 1.0 + 2e-3
    with pytest.raises(DataError, match=r"by 0\.002; round it back"):
        calls[call](x)

"""The interface of attack and model: float32 points, inputs in the model's dtype, separate memory."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advreg import ThreatModel, attacks
from advreg.attacks.model import input_dtype, query_model
from advreg.attacks.patch import patch
from advreg.attacks.spatial import spatial

SHORT: dict[str, Callable[..., Any]] = {
    "fgsm": attacks.fgsm,
    "pgd": functools.partial(attacks.pgd, steps=10),
    "mifgsm": attacks.mifgsm,
    "nifgsm": attacks.nifgsm,
    "apgd": functools.partial(attacks.apgd, steps=15),
    "apgd_targeted": functools.partial(attacks.apgd_targeted, steps=10, target_classes=2),
    "cosine_pgd": functools.partial(attacks.cosine_pgd, steps=10),
    "shrinking_pgd": attacks.shrinking_pgd,
    "square": functools.partial(attacks.square, queries=100),
    "random_search": functools.partial(attacks.random_search, queries=50),
    "spsa": functools.partial(attacks.spsa, steps=8, samples=16),
    "hopskipjump": functools.partial(attacks.hopskipjump, queries=400),
    "fab": functools.partial(attacks.fab, steps=10),
    "fmn": functools.partial(attacks.fmn, steps=30),
    "ddn": functools.partial(attacks.ddn, steps=30),
    "deepfool": attacks.deepfool,
    "carlini_wagner": functools.partial(attacks.carlini_wagner, steps=20, binary_search_steps=3),
}
EPS = {"linf": 0.06, "l2": 0.3, "l1": 3.0}
NORMS_OF = {"spsa": ("linf",), "hopskipjump": ("linf", "l2"), "ddn": ("l2",), "carlini_wagner": ("l2",)}
NEAREST = ("hopskipjump", "fab", "fmn", "ddn", "deepfool", "carlini_wagner")  # they minimise the distance
CASES = [(name, norm) for name in SHORT for norm in NORMS_OF.get(name, tuple(EPS))]


class Network(nn.Module):
    """Two layers behind a normalisation that writes into its input, or does not: the same function."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.in_place = in_place
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x.sub_(0.5).div_(0.25) if self.in_place else (x - 0.5) / 0.25
        logits: Tensor = self.layers(x)
        return logits


def batch(n: int = 24) -> tuple[Tensor, Tensor]:
    """Inputs with dyadic values, the same in every floating type, and the labels that the network gives them."""
    x = torch.randint(4, 13, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 16
    return x, query_model(Network(False).eval(), x).argmax(1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_half_precision_loses_nothing_of_eps(name: str, norm: str, dtype: torch.dtype) -> None:
    x, _ = batch()
    model, threat = Network(False).to(dtype).eval(), ThreatModel(norm, EPS[norm])  # type: ignore[arg-type]
    wide = copy.deepcopy(model).float()  # the same weights, rounded once
    y = query_model(model, x).argmax(1)
    clear = query_model(wide, x).argmax(1) == y
    x, y = x[clear], y[clear]
    expected = SHORT[name](wide, x, y, threat)
    found = SHORT[name](model, x.to(dtype), y, threat)
    assert found.x_adv.dtype == torch.float32
    assert bool(threat.contains(found.x_adv, x).all())
    assert attacks.verify(model, x.to(dtype), found.x_adv, y, threat).equal(found.broken)
    share = 0.7 if name == "hopskipjump" else 1.0  # a 16-bit model's labels do not change over its smallest probes
    assert int(found.broken.sum()) >= int(share * expected.broken.sum()) - 1  # rounding moves the boundary itself, too
    whole = EPS[norm] * (1 - 1e-5)
    assert float(found.distance.max()) >= whole or float(expected.distance.max()) < whole or name in NEAREST


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_points_fill_the_ball(norm: str, dtype: torch.dtype) -> None:
    x, y = batch()
    threat = ThreatModel(norm, EPS[norm])  # type: ignore[arg-type]
    made = attacks.craft(Network(False).to(dtype).eval(), x.to(dtype), y, threat, steps=5)
    assert float(threat.distance(made.x_adv, x).max()) == pytest.approx(EPS[norm], rel=1e-4)
    assert bool(threat.contains(made.x_adv, x).all())


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_model_that_writes_into_its_input_changes_nothing(name: str, norm: str) -> None:
    x, y = batch()
    before, threat = x.clone(), ThreatModel(norm, EPS[norm])  # type: ignore[arg-type]
    expected = SHORT[name](Network(False).eval(), x, y, threat)
    found = SHORT[name](Network(True).eval(), x, y, threat)
    assert torch.equal(x, before)
    for field in ("x_adv", "broken", "distance", "loss", "cost"):
        assert torch.equal(getattr(found, field), getattr(expected, field)), field
    assert torch.equal(attacks.verify(Network(True).eval(), x, found.x_adv, y, threat), found.broken)


def test_every_public_attack_is_tested_here() -> None:
    not_attacks = {"AttackResult", "CraftedExamples", "attack_at_each_eps", "corruptions", "craft", "verify"}
    refinements = {"minimum_distance", "refine_by_bisection", "refine_by_radius"}
    other_tests = {"transfer", "patch", "spatial", "capgd", "mutate"}  # the last two in tests/attacks/tabular
    assert set(SHORT) | not_attacks | refinements | other_tests == set(attacks.__all__)


def test_transfer_does_not_change_the_inputs() -> None:
    x, y = batch()
    before, threat, results = x.clone(), ThreatModel("linf", 0.1), []
    for in_place in (False, True):
        model = Network(in_place).eval()
        results.append(attacks.transfer(model, x, y, threat, surrogate=model, attack=SHORT["pgd"]))
    assert torch.equal(results[0].x_adv, results[1].x_adv)
    assert torch.equal(x, before)


def test_attacks_without_a_norm_do_not_change_the_inputs() -> None:
    x, y = batch(8)
    before = x.clone()
    for attack in (functools.partial(spatial, grid=(3, 3)), functools.partial(patch, size=3, steps=5)):
        expected, found = (attack(Network(in_place).eval(), x, y) for in_place in (False, True))
        assert torch.equal(found.x_adv, expected.x_adv)
        assert torch.equal(x, before)


def test_refinements_do_not_change_the_inputs() -> None:
    x, y = batch()
    results = []
    for model in (Network(False).eval(), Network(True).eval()):
        found = attacks.minimum_distance(SHORT["fab"], model, x, y, "l2")
        results.append(attacks.refine_by_radius(found, model, x, y, ThreatModel("l2", 0.0), rounds=2).min_distance)
    assert torch.equal(*results)
    assert torch.equal(x, batch()[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_functions_of_half_precision_inputs_are_attacked(dtype: torch.dtype) -> None:
    x, y = batch()
    model, threat = Network(False).to(dtype).eval(), ThreatModel("l2", EPS["l2"])
    for name in ("pgd", "square", "fab"):
        expected = SHORT[name](model, x.to(dtype), y, threat)
        assert torch.equal(SHORT[name](lambda z: model(z), x.to(dtype), y, threat).broken, expected.broken), name
    labels = SHORT["hopskipjump"](lambda z: model(z).argmax(1), x.to(dtype), y, threat)
    assert torch.equal(labels.broken, SHORT["hopskipjump"](model, x.to(dtype), y, threat).broken)


def test_probabilities_as_labels_take_the_type_of_the_points() -> None:
    x, y = batch()
    soft = nn.functional.one_hot(y, 4).bfloat16()
    model, threat = Network(False).bfloat16().eval(), ThreatModel("linf", 0.06)
    found = attacks.pgd(model, x.bfloat16(), soft, threat, steps=5)
    assert torch.equal(found.broken, attacks.pgd(model, x.bfloat16(), y, threat, steps=5).broken)


def test_input_type_is_that_of_the_first_floating_weight() -> None:
    assert input_dtype(nn.Linear(2, 2).half()) == torch.float16
    assert input_dtype(nn.BatchNorm1d(2, affine=False).double()) == torch.float64
    assert input_dtype(nn.ReLU()) is None
    assert input_dtype(torch.relu) is None

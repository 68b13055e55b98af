"""Each recipe picks its inner objective by itself, and no attack of any kind computes a weight gradient."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import advreg
from advreg.attacks import craft
from advreg.objectives import cross_entropy, kl
from advreg.training import eval_mode, inner, policies, recipes
from advreg.training.policies import Moment
from advreg.training.recipes.robust_distillation import disagreement
from tests.training import small

THREAT = advreg.ThreatModel("linf", eps=0.1)
NONE, LABEL, ANSWER = None, cross_entropy, kl
WANTED = {
    "standard": NONE,
    "adaad": disagreement,
    **dict.fromkeys(("free", "nuat"), NONE),
    **dict.fromkeys(("gaussian", "ibp", "crown_ibp"), NONE),
    **dict.fromkeys(("mtl_ibp", "sabr"), LABEL),
    "trades": ANSWER,
    "rslad": ANSWER,
    **dict.fromkeys(
        ("madry", "mixed", "multiplier", "mart", "alp", "ar_at", "advprop", "pgi", "gradalign", "distill", "ard"), LABEL
    ),
}


def batch():
    torch.manual_seed(0)
    return torch.rand(6, 1, 8, 8), torch.arange(6) % 3


def network(name=""):
    torch.manual_seed(1)
    net = small.network()
    return recipes.split_batchnorm(net, predictors=["1"]) if name in ("ar_at", "advprop") else net


def recipe(name):
    return recipes.RECIPES.build(name, {"robust": network()} if name in ("distill", "ard", "rslad", "adaad") else {})


def test_every_recipe_has_been_thought_of():
    assert WANTED.keys() == recipes.RECIPES.keys()


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipe_picks_its_objective_and_what_to_aim_at(name):
    x, y = batch()
    queried, stored = [], inner.FgsmPgi()

    def attack(model, x, y, threat, *, objective, seed):
        queried.append((objective, y))
        assert not model.training
        return stored(model, x, y, threat, objective=objective, seed=seed)

    recipe(name)(network(name).train(), x, y, attack, THREAT)
    if WANTED[name] is NONE:
        assert not queried
        return
    ((objective, aim),) = queried
    assert objective is WANTED[name]
    assert aim.shape == (6, 3) if objective is kl else torch.equal(aim, y[-len(aim) :])


ATTACKS = {
    "none": inner.unattacked,
    "fgsm": partial(craft, steps=1, start="zero"),
    "rs-fgsm": partial(craft, steps=1),
    "n-fgsm": inner.n_fgsm,
    "pgd": partial(craft, steps=3),
    "near": partial(inner.trades_pgd, steps=3),
    "friendly": partial(inner.friendly_pgd, steps=3),
    "stored": inner.FgsmPgi(),
    "max": partial(inner.worst_norm, others=[advreg.ThreatModel("l2", eps=0.5)]),
    "msd": partial(inner.multi_steepest, others=[advreg.ThreatModel("l2", eps=0.5)], steps=3),
    "e-at": inner.SampledNorm([advreg.ThreatModel("l2", eps=0.5)]),
}


def watched(net: nn.Module) -> list[str]:
    """Return a list that grows by a name whenever a gradient of that weight is computed."""
    found: list[str] = []
    for name, weight in net.named_parameters():
        weight.register_hook(lambda grad, name=name: found.append(name))
    return found


@pytest.mark.parametrize("name", ATTACKS)
def test_no_weight_gradient_in_any_attack(name):
    (x, y), net = batch(), network().train()
    computed = watched(net)
    with eval_mode(net):
        for _ in range(2):
            ATTACKS[name](net, x, y, THREAT, ids=torch.arange(6))
    assert not computed
    nn.functional.cross_entropy(net(x), y).backward()
    assert computed, "the watch is awake"


@pytest.mark.parametrize("name", policies.POLICIES)
def test_no_weight_gradient_in_any_policy(name):
    (x, y), net = batch(), network().train()
    computed, policy = watched(net), policies.POLICIES.build(name, {})
    for step in (5, 95):
        attack, threat = policy(net, x, y, torch.arange(6), ATTACKS["pgd"], THREAT, Moment(1, step, 100))
        with eval_mode(net):
            attack(net, x, y, threat, ids=torch.arange(6))
    assert not computed


@pytest.mark.parametrize("name", ["free", "nuat", "pgi", "gradalign", "distill"])
def test_certainty_does_not_become_nan(name):
    """Logits of ten thousand: probabilities are exactly 0 and 1."""
    torch.manual_seed(0)
    net, x, y = nn.Linear(8, 3), torch.rand(6, 8), torch.arange(6) % 3
    with torch.no_grad():
        net.weight.mul_(1e4)
    assert (net(x).softmax(1) == 0).any(), "saturated indeed"
    options = {"robust": nn.Linear(8, 3)} if name == "distill" else {}
    loss = recipes.RECIPES.build(name, options)(net, x, y, inner.FgsmPgi(), THREAT)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(weight.grad).all() for weight in net.parameters())

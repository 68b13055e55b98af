"""Adversarial training for free: its replays by hand, its perturbation that stays, its single pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import advreg
from advreg.errors import ConfigError
from advreg.training import per_example_state, policies, recipes, setup
from advreg.training.step import take_step
from tests.attacks.models import Counter
from tests.training import small

EPS = 0.1
THREAT = advreg.ThreatModel("linf", eps=EPS)


def batches(count=3, size=6):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.rand(size, 8, generator=generator) * 0.4 + 0.3, torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def network():
    torch.manual_seed(1)
    return nn.Linear(8, 3)


def by_hand(model, data, replays, lr):
    """Plain replays in numpy-like steps: softmax regression, whose gradients are known in closed form."""
    w, b = model.weight.detach().double(), model.bias.detach().double()
    delta = torch.zeros(6, 8, dtype=torch.float64)
    for x, y in data:
        for _ in range(replays):
            point = x.double() + delta[: len(x)]
            error = (point @ w.T + b).softmax(1) - F.one_hot(y, 3)
            delta[: len(x)] = (delta[: len(x)] + EPS * (error @ w).sign()).clamp(-EPS, EPS)
            w = w - lr * error.T @ point / len(x)
            b = b - lr * error.mean(0)
    return w, b, delta


@pytest.mark.parametrize("replays", [1, 4])
def test_replays_are_those_worked_out_by_hand(replays):
    model, recipe = network(), recipes.free(replays=replays)
    data = [*batches(), (batches()[0][0][:4], batches()[0][1][:4])]  # the last batch of an epoch is smaller
    w, b, delta = by_hand(model, data, replays, lr=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for x, y in data:
        for _ in range(recipes.replays_of(recipe)):
            optimizer.zero_grad()
            recipe(model, x, y, None, THREAT).backward()
            optimizer.step()
    torch.testing.assert_close(model.weight.double(), w, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.bias.double(), b, atol=1e-5, rtol=0)
    torch.testing.assert_close(recipe.state_dict()["delta"].double(), delta, atol=1e-5, rtol=0)


def test_one_forward_and_one_backward_and_no_attack():
    model, recipe = small.network().train(), recipes.free()
    count = Counter(model)
    recipe(model, torch.rand(5, 1, 8, 8), torch.arange(5) % 3, _never, THREAT).backward()
    assert (count.forwards, count.backwards) == (5, 5)
    assert int(model[1].num_batches_tracked) == 1
    assert recipes.replays_of(recipes.madry()) == 1


def _never(*_: object, **__: object) -> None:
    raise AssertionError("there is no attack")


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_points_stay_inside_in_every_norm_with_an_eps_for_each(norm):
    torch.manual_seed(0)
    model, recipe, seen = network(), recipes.free(), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    threat = advreg.ThreatModel(norm, torch.tensor([0.0, 0.1, 0.2, 0.4, 0.6, 0.9]))
    for x, y in batches(4):
        x = (3 * x - 1).clamp(0, 1)  # some pixels at the box
        recipe(model, x, y, None, threat).backward()
        assert threat.contains(seen[-1], x).all()
    assert recipe.state_dict()["delta"][1:].flatten(1).norm(dim=1).min() > 0
    assert (recipe.state_dict()["delta"][0] == 0).all()


def test_a_resumed_perturbation_is_the_same_to_the_bit():
    (x, y), (x2, y2) = batches(2)
    model, one, other = network(), recipes.free(), recipes.free()
    one(model, x, y, None, THREAT).backward()
    per_example_state.restore({"recipe": other}, per_example_state.states({"recipe": one}))
    assert torch.equal(one(model, x2, y2, None, THREAT), other(model, x2, y2, None, THREAT))
    assert not torch.equal(one(model, x2, y2, None, THREAT), recipes.free()(model, x2, y2, None, THREAT))


def test_options_are_checked():
    with pytest.raises(ConfigError, match="replays is 0"):
        recipes.free(replays=0)


def test_a_ramp_of_eps_reaches_the_perturbation(data, tmp_path):
    config = small.config(data, tmp_path / "run", "recipe.name=free", "attack.name=none", "recipe.options.replays=2",
                          "policy.name=warmup", "policy.options.share=0.8")  # fmt: skip
    made = setup.prepare(config)
    batch, largest = next(iter(made.batches.epoch(1))), []
    made.model.train()
    for step in (0, 11, 29):
        take_step(made, batch, policies.Moment(1, step, 30))
        largest.append(float(made.recipe.state_dict()["delta"].abs().max()))
    expected = [0.05 * min(1.0, (step + 0.5) / 24) for step in (0, 11, 29)]
    assert largest == pytest.approx(expected, abs=2e-7)  # float32 near 1
    with pytest.raises(ConfigError, match=r"policy\.name = 'iaat'"):
        config.replace_with({"policy.name": "iaat", "policy.options": {}})


@pytest.mark.parametrize("box_gradient", ["full", "masked"])
def test_a_masked_gradient_is_that_through_a_clamp(box_gradient):
    """Replays with torch's own clamp in the graph: values pushed out of the box get no gradient, so they stay."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x, y = torch.rand(6, 8, dtype=torch.float64), torch.arange(6) % 3
    recipe, delta = recipes.free(replays=3, box_gradient=box_gradient), torch.zeros(6, 8, dtype=torch.float64)
    outside = 0
    for _ in range(5):
        recipe(model, x, y, None, THREAT).backward()
        moved = delta.clone().requires_grad_()
        point = (x + moved).clamp(0, 1)
        outside += int(((x + delta < 0) | (x + delta > 1)).sum())
        grad = torch.autograd.grad(F.cross_entropy(model(point), y), moved if box_gradient == "masked" else point)[0]
        delta = (delta + EPS * grad.sign()).clamp(-EPS, EPS)
        torch.testing.assert_close(recipe.state_dict()["delta"], delta, rtol=0, atol=1e-12)
    assert outside > 5

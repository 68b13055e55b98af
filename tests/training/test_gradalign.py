"""GradAlign: zero where gradients cannot disagree, and both derivatives the same where a network is smooth."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import advreg
from advreg.errors import ModelError
from advreg.training import recipes
from advreg.training.recipes.gradalign import misalignment
from tests.attacks.models import Counter
from tests.training import small

THREAT = advreg.ThreatModel("linf", eps=0.3)
FGSM = partial(advreg.attacks.craft, steps=1, start="zero")


def smooth():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double()


def batch():
    torch.manual_seed(1)
    return torch.rand(6, 8, dtype=torch.float64), torch.arange(6) % 3


def value_and_slope(net, x, y, **how):
    net.zero_grad()
    torch.manual_seed(2)
    value = misalignment(net, x, y, THREAT, **how)
    value.backward()
    return value.item(), torch.cat([weight.grad.flatten() for weight in net.parameters()])


def test_finite_difference_agrees_with_double_backward():
    net, (x, y) = smooth(), batch()
    value, slope = value_and_slope(net, x, y, method="double")
    for step, tol in ((1e-2, 1e-3), (1e-4, 1e-6)):
        near_value, near_slope = value_and_slope(net, x, y, method="finite", step=step)
        assert near_value == pytest.approx(value, abs=1e-12)
        assert (near_slope - slope).norm() < tol * slope.norm()
    assert slope.norm() > 0.01


def test_double_backward_is_the_derivative_of_the_value():
    """By differences of the weights, the gradient at the clean point held still: only the other one is followed."""
    net, (x, y) = smooth(), batch()
    _, slope = value_and_slope(net, x, y, method="double")
    torch.manual_seed(2)
    beside = THREAT.random_start(x, torch.arange(6), recipes.base.draw_seed())

    def gradient(point):
        leaf = point.clone().requires_grad_()
        loss = F.cross_entropy(net(leaf), y, reduction="sum")
        return torch.autograd.grad(loss, leaf)[0]

    here = gradient(x)

    def value():
        return (1 - F.cosine_similarity(here, gradient(beside))).mean().item()

    weight, h = net[0].weight.data, 1e-6
    for i, j in ((0, 0), (3, 5), (15, 7)):
        ends = []
        for shift in (h, -2 * h):
            weight[i, j] += shift
            ends.append(value())
        weight[i, j] += h
        assert slope[i * 8 + j].item() == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-7)


@pytest.mark.parametrize("method", ["finite", "double"])
def test_a_linear_model_is_aligned(method):
    """Two classes: every input gradient points along the difference of the weights, whatever the label."""
    torch.manual_seed(0)
    net, (x, y) = nn.Linear(8, 2).double(), batch()
    value, slope = value_and_slope(net, x, y % 2, method=method)
    assert value == pytest.approx(0, abs=1e-12)
    assert slope.abs().max() < 1e-9


@pytest.mark.parametrize("method", ["finite", "double"])
def test_dead_and_tiny_gradients_are_no_nan(method):
    net, (x, y) = smooth(), batch()
    with torch.no_grad():
        net[2].weight.mul_(1e-20)
    value, slope = value_and_slope(net, x, y, method=method)
    assert 0 <= value <= 2
    with torch.no_grad():
        net[2].weight.zero_()
    value, slope = value_and_slope(net, x, y, method=method)
    assert value == 0
    assert torch.isfinite(slope).all()


def test_each_example_has_a_point_beside_it_of_its_own():
    net, x, queried = smooth(), torch.full((6, 8), 0.5, dtype=torch.float64), []
    net.register_forward_pre_hook(lambda _, inputs: queried.append(inputs[0].detach()))
    misalignment(net, x, torch.arange(6) % 3, THREAT, method="double")
    here, beside = queried
    assert torch.equal(here, x)
    assert THREAT.contains(beside, x).all()
    assert len(beside.unique(dim=0)) == 6


def test_recipe_adds_it_to_any_other():
    net, (x, y) = smooth(), batch()
    torch.manual_seed(3)
    plain = recipes.madry(0.1)(net, x, y, FGSM, THREAT)
    extra = misalignment(net, x, y, THREAT)
    torch.manual_seed(3)
    loss = recipes.gradalign(weight=0.7, label_smoothing=0.1)(net, x, y, FGSM, THREAT)
    torch.testing.assert_close(loss, plain + 0.7 * extra)
    torch.manual_seed(3)
    again = recipes.aligned(recipes.madry(0.1), 0.7)(net, x, y, FGSM, THREAT)
    assert torch.equal(loss, again)


@pytest.mark.parametrize(("method", "forwards", "backwards"), [("finite", 4, 4), ("double", 2, 3)])
def test_passes_and_no_trace(method, forwards, backwards):
    torch.manual_seed(0)
    net = small.network().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x, y, count = torch.rand(5, 1, 8, 8), torch.arange(5) % 3, Counter(net)
    value = misalignment(net, x, y, THREAT, method=method)
    assert count.weight_gradients() == 0
    value.backward()
    assert (count.forwards, count.backwards) == (5 * forwards, 5 * backwards)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


def test_half_precision_does_not_reach_the_difference():
    torch.manual_seed(0)
    net, x, y = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)), torch.rand(6, 8), torch.arange(6) % 3
    values = []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            values.append(misalignment(net, x, y, THREAT))
    slopes = [torch.autograd.grad(value, net[0].weight)[0] for value in values]
    assert torch.equal(*values)
    assert torch.equal(*slopes)


def test_double_rejects_a_compiled_model():
    net, (x, y) = smooth(), batch()
    compiled = torch.compile(net, backend="eager")
    with pytest.raises(ModelError, match="cannot differentiate a compiled model twice; set method = finite"):
        misalignment(compiled, x, y, THREAT, method="double")

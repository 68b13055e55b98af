"""Learned eps: without its budget it collapses, with it the mean stays and only shares move."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import advreg
from advreg.errors import ThreatError
from advreg.training import per_example_state, policies
from advreg.training.policies import Moment
from advreg.training.policies.ldes import LearnedEpsPolicy
from tests.attacks.models import Counter
from tests.training import small

THREAT = advreg.ThreatModel("linf", eps=0.1)
NOW = Moment(epoch=1, step=0, steps=10)


def problem(n=40):
    """A linear model that is sure of some examples and not of others."""
    torch.manual_seed(0)
    net = nn.Linear(8, 3)
    with torch.no_grad():
        net.weight.mul_(6)
    x = torch.rand(n, 8) * 0.6 + 0.2
    return net.eval(), x, net(x).argmax(1), torch.arange(n)


def taught(steps=300, **options):
    """Return the radii, in eps, after so many steps on the same batch, and the problem's margins."""
    policy, (net, x, y, ids) = policies.ldes(**options), problem()
    for _ in range(steps):
        threat = policy(net, x, y, ids, None, THREAT, NOW)[1]
    top = net(x).topk(2).values
    return threat.eps / 0.1, (top[:, 0] - top[:, 1]).detach()


def test_without_the_budget_it_collapses_and_with_it_not():
    free, _ = taught(mu=0.0, lr=1.0)
    assert free.mean() < 0.1, "radii only cost, so none is left"
    held, margins = taught(steps=1000, mu=10.0)
    assert 0.9 < held.mean() < 1.0, "within slope / (2 mu) of the budget, from below"
    assert held.max() - held.min() > 0.3, "shares do differ"
    sure = margins > margins.median()
    assert held[sure].mean() > held[~sure].mean() + 0.1, "who can bear more gets more"


@pytest.mark.parametrize("mu", [0.3, 1.0])
def test_the_mean_rests_where_slope_and_budget_balance(mu):
    """At rest the last bias feels ``mean(slope_i r_i') + 2 mu (mean - 1) mean(r_i') = 0``: known on a linear model."""
    policy, (net, x, y, ids) = policies.ldes(mu=mu, lr=0.3), problem()
    for _ in range(500):
        radii = policy(net, x, y, ids, None, THREAT, NOW)[1].eps / 0.1
    rise = radii * (2 - radii) / 2  # the derivative of 2 sigmoid
    leaf = x.clone().requires_grad_()
    way = torch.autograd.grad(nn.functional.cross_entropy(net(leaf), y), leaf)[0].sign()
    r = radii.clone().requires_grad_()
    loss = nn.functional.cross_entropy(net((x + 0.1 * r[:, None] * way).clamp(0, 1)), y, reduction="sum")
    slope = torch.autograd.grad(loss, r)[0]
    lack = (slope * rise).mean() / (2 * mu * rise.mean())
    assert lack > 0.02
    assert 1 - radii.mean().item() == pytest.approx(lack.item(), rel=0.1)


def test_it_starts_with_eps_for_all_and_keeps_its_bounds():
    net, x, y, ids = problem()
    policy = policies.ldes(least=0.5, most=3.0)
    torch.testing.assert_close(policy(net, x, y, ids, None, THREAT, NOW)[1].eps, torch.full((40,), 0.1))
    radii, _ = taught(mu=0.0, lr=1.0, least=0.5, most=3.0)
    assert (radii >= 0.5).all()
    assert (radii <= 3.0).all()
    assert radii.mean() < 0.6


def test_bounds_lie_on_either_side_of_eps():
    for least, most in ((1.0, 2.0), (1.5, 2.0), (-0.1, 2.0), (0.5, 1.0)):
        with pytest.raises(ThreatError, match=f"least is {least}, most {most}; give bounds"):
            policies.ldes(least=least, most=most)


def test_resumed_it_goes_on_to_the_bit():
    net, x, y, ids = problem()
    one, other = policies.ldes(examples=40), policies.ldes(examples=40)
    for _ in range(5):
        one(net, x, y, ids, None, THREAT, NOW)
    per_example_state.restore({"policy": other}, per_example_state.states({"policy": one}))
    for _ in range(2):
        a, b = (policy(net, x, y, ids, None, THREAT, NOW)[1].eps for policy in (one, other))
        assert torch.equal(a, b)
    states = per_example_state.states({"a": one, "b": other})
    assert states["a"].keys() == states["b"].keys()
    assert all(torch.equal(states["a"][key], states["b"][key]) for key in states["a"])


def test_answers_are_remembered_by_id():
    net, x, y, ids = problem()
    policy = policies.ldes()
    policy(net, x, y, ids, None, THREAT, NOW)
    torch.testing.assert_close(policy.state_dict()["answers"][:40], net(x).softmax(1).detach())
    assert isinstance(policy, LearnedEpsPolicy)
    z = net(x).detach()
    order = torch.randperm(40)
    doubt = policy._doubt(net, x[order], ids[order], z[order])
    torch.testing.assert_close(doubt, torch.zeros(40), atol=1e-5, rtol=0)
    shifted = policy._doubt(net, x, ids, z.flip(1))
    assert (shifted > 0).any(), "a changed answer is a doubtful one"
    p, q = z.softmax(1), z.flip(1).softmax(1)
    torch.testing.assert_close(shifted, (p * (p / q).log()).sum(1))


def test_uncertainty_is_the_mutual_information_of_answer_and_mask():
    """As the mean divergence of each mask's answer from their mean, which is the same number."""
    torch.manual_seed(0)
    net, x = small.network().eval(), torch.rand(6, 1, 8, 8)
    policy = policies.ldes(samples=5)
    torch.manual_seed(1)
    doubt = policy._doubt(net, x, torch.arange(6), net(x))
    torch.manual_seed(1)
    net[4].train()
    answers = torch.stack([net(x).softmax(1) for _ in range(5)])
    expected = (answers * (answers / answers.mean(0)).log()).sum(2).mean(0)
    torch.testing.assert_close(doubt, expected, atol=1e-6, rtol=1e-4)
    assert (doubt > 0).all()


@pytest.mark.parametrize(("p", "forwards"), [(0.0, 2), (0.2, 2 + 4)])
def test_it_has_its_stated_cost_and_leaves_no_trace(p, forwards):
    torch.manual_seed(0)
    net = small.network().train()
    net[4].p = p
    net[1].eval()
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x, y, count = torch.rand(6, 1, 8, 8), torch.arange(6) % 3, Counter(net)
    threat = policies.ldes(samples=4)(net, x, y, torch.arange(6), None, THREAT, NOW)[1]
    assert (count.forwards, count.backwards) == (6 * forwards, 6 * 2)
    assert count.weight_gradients() == 0
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not threat.eps.requires_grad


def test_certain_saturated_and_single_examples_are_no_nan():
    net, x, y, ids = problem()
    with torch.no_grad():
        net.weight.mul_(1e4)
    policy = policies.ldes()
    for rows in (slice(0, 1), slice(0, 40), slice(3, 4)):
        eps = policy(net, x[rows], y[rows], ids[rows], None, THREAT, NOW)[1].eps
        assert torch.isfinite(eps).all()
    assert all(torch.isfinite(v).all() for k, v in policy.state_dict().items() if k != "answers")


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_other_norms(norm):
    net, x, y, ids = problem()
    policy = partial(policies.ldes(), net, x, y, ids, None, advreg.ThreatModel(norm, 0.5), NOW)
    for _ in range(20):
        eps = policy()[1].eps
    assert torch.isfinite(eps).all()
    assert eps.std() > 0

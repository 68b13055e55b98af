"""AWP: exact lengths layer by layer, weights after a step worked out by hand, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import advreg
from advreg.errors import ConfigError
from advreg.training import recipes
from advreg.training.weight_perturbation import once, perturb_weights, uphill
from tests.attacks.models import Counter
from tests.training import small

THREAT = advreg.ThreatModel("linf", eps=0.1)


def problem():
    torch.manual_seed(0)
    net = small.network().train()
    return net, torch.rand(6, 1, 8, 8), torch.arange(6) % 3


@pytest.mark.parametrize("gamma", [0.005, 0.1])
def test_each_layer_moves_by_its_share_up_the_loss(gamma):
    net, x, y = problem()
    net[4].eval()
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    grads = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
    slopes = dict(zip(before, grads, strict=True))
    with perturb_weights(net, lambda: F.cross_entropy(net(x), y), gamma=gamma):
        moves = {name: weight.detach() - before[name] for name, weight in net.named_parameters()}
    for name, move in moves.items():
        if before[name].ndim > 1:
            assert move.norm() / before[name].norm() == pytest.approx(gamma, rel=1e-4)
            cosine = F.cosine_similarity(move.flatten(), slopes[name].flatten(), dim=0)
            assert cosine == pytest.approx(1.0, abs=1e-4)
        else:
            assert not move.any(), f"{name} is a bias or of BatchNorm"
    for name, weight in net.named_parameters():
        torch.testing.assert_close(weight, before[name], atol=1e-7, rtol=1e-6)


def test_weights_after_a_step_are_those_by_hand():
    """Weight decay included: ``w - lr (grad(w + v) + decay (w + v))``."""
    torch.manual_seed(0)
    net, x, y = nn.Linear(8, 3).double(), torch.rand(6, 8, dtype=torch.float64), torch.arange(6) % 3
    w, b = net.weight.detach().clone(), net.bias.detach().clone()

    def gradient(w):
        error = ((x @ w.T + b).softmax(1) - F.one_hot(y, 3)) / 6
        return error.T @ x, error.sum(0)

    v = 0.01 * w.norm() * gradient(w)[0] / gradient(w)[0].norm()
    slope, slope_b = gradient(w + v)
    expected = w - 0.5 * (slope + 0.1 * (w + v))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, weight_decay=0.1)

    def loss():
        return F.cross_entropy(net(x), y)

    with perturb_weights(net, loss, gamma=0.01):
        loss().backward()
        optimizer.step()
    torch.testing.assert_close(net.weight.detach(), expected)
    torch.testing.assert_close(net.bias.detach(), b - 0.5 * (slope_b + 0.1 * b))


def test_the_extra_look_leaves_no_trace():
    net, x, y = problem()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    count = Counter(net)
    with perturb_weights(net, lambda: F.cross_entropy(net(x), y), gamma=0.01):
        assert all(torch.equal(before[name], buffer) for name, buffer in net.named_buffers())
        assert count.weight_gradients() == 0
        assert (count.forwards, count.backwards) == (6, 6)


def test_weights_come_back_after_an_error():
    net, x, y = problem()
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}

    def fail():
        with perturb_weights(net, lambda: F.cross_entropy(net(x), y), gamma=0.1):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for name, weight in net.named_parameters():
        torch.testing.assert_close(weight, before[name], atol=1e-7, rtol=1e-6)


def test_none_costs_nothing_and_below_none_is_rejected():
    net, _, _ = problem()

    def never():
        raise AssertionError("there is nothing to ask")

    with perturb_weights(net, never, gamma=0.0):
        pass
    with pytest.raises(ConfigError, match="gamma is -1"), perturb_weights(net, never, gamma=-1.0):
        pass


def test_frozen_and_unused_weights_do_not_move():
    net = nn.ModuleDict({"used": nn.Linear(8, 3), "frozen": nn.Linear(8, 8), "unused": nn.Linear(8, 8)})
    net["frozen"].requires_grad_(False)
    x, y = torch.rand(6, 8), torch.arange(6) % 3
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    with perturb_weights(net, lambda: F.cross_entropy(net["used"](net["frozen"](x)), y), gamma=0.1):
        moved = [name for name, weight in net.named_parameters() if not torch.equal(weight, before[name])]
    assert moved == ["used.weight"]


def test_a_flat_loss_moves_nothing():
    net, x, _ = problem()
    weights = [weight for weight in net.parameters() if weight.ndim > 1]
    assert all(not move.any() for move in uphill(net, lambda: net(x).sum() * 0, weights, 0.1))


@pytest.mark.parametrize("name", ["madry", "trades"])
def test_both_looks_at_the_loss_share_one_attack(name):
    net, x, y = problem()
    calls = []

    def attack(model, x, y, threat, **options):
        calls.append(len(x))
        return advreg.attacks.craft(model, x, y, threat, steps=2, **options)

    recipe, attack = recipes.RECIPES.build(name, {}), once(attack)

    def loss():
        return recipe(net, x, y, attack, THREAT)

    with perturb_weights(net, loss, gamma=0.05):
        value = loss()
        value.backward()
    assert calls == [6]
    assert int(net[1].num_batches_tracked) == 1
    assert all(weight.grad is not None for weight in net.parameters())


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_weights_sharded_by_fsdp_are_rejected_first(tmp_path):
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        fully_shard(model, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (1,)))
        with pytest.raises(ConfigError, match="cut into shards by FSDP") as error, perturb_weights(model, never, 0.01):
            pass
    finally:
        torch.distributed.destroy_process_group()
    assert "\n" not in str(error.value)


def never():
    raise AssertionError("the loss was asked for")

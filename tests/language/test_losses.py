"""Oracles worked by hand for the terms of the loss, and laws of the perturbations that training is built from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from advreg.language.perturbation import project, random_start, replayed_rng, steepest_direction
from advreg.language.training import losses
from advreg.language.training.freelb import freelb
from advreg.language.training.smart import alum, smart


def gradient(function, at):
    x = torch.tensor(at, requires_grad=True)
    function(x).sum().backward()
    return x.grad.tolist()


def test_toward_counts_a_thousandth_below_its_cutoff():
    nll = torch.tensor([3.0, 0.5, 0.4])
    assert torch.allclose(losses.toward(nll), torch.tensor([3.0, 0.5, 0.5004]))
    assert gradient(losses.toward, [3.0, 0.4]) == pytest.approx([1.0, 0.001])


def test_away_pushes_a_thousandth_beyond_its_cutoff():
    nll = torch.tensor([2.0, 5.0, 7.0])
    assert torch.allclose(losses.away(nll), torch.tensor([-2.0, -5.0, -5.007]))
    assert gradient(losses.away, [2.0, 7.0]) == pytest.approx([-1.0, -0.001])


def test_kl_by_hand():
    p, q = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5]]).log()
    forwards = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    backwards = 0.5 * math.log(0.625) + 0.5 * math.log(2.5)
    assert losses.kl(p, q).item() == pytest.approx(forwards, rel=1e-5)
    assert losses.symmetric_kl(p, q).item() == pytest.approx(forwards + backwards, rel=1e-5)
    assert losses.kl(p + 3.0, p).item() == pytest.approx(0.0, abs=1e-6), "logits need not be normalised"


def test_only_marked_positions_count():
    p = torch.zeros(1, 3, 2)
    q = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [9.0, 0.0]]])
    one = losses.kl(p[:, 1], q[:, 1])
    where = torch.tensor([[True, True, False]])
    assert torch.allclose(losses.kl(p, q, where), one / 2)


@pytest.mark.parametrize("norm", ["token", "example", "linf"])
def test_projection_is_feasible_idempotent_and_the_identity_inside(norm):
    torch.manual_seed(0)
    delta = torch.randn(3, 4, 5, dtype=torch.float64)
    inside = project(delta, 0.7, norm)
    sizes = {"token": inside.norm(dim=2), "example": inside.flatten(1).norm(dim=1), "linf": inside.abs()}[norm]
    assert (sizes <= 0.7 + 1e-12).all()
    assert torch.allclose(project(inside, 0.7, norm), inside, atol=1e-15)
    assert torch.equal(project(0.01 * delta, 0.7, norm), 0.01 * delta)


@pytest.mark.parametrize("norm", ["token", "example", "linf"])
def test_steepest_attains_the_dual_norm(norm):
    grad = torch.tensor([[[3.0, -4.0], [0.0, 5.0]]])
    dual = {"token": 5.0 + 5.0, "example": math.sqrt(50), "linf": 12.0}[norm]
    assert (steepest_direction(grad, norm) * grad).sum().item() == pytest.approx(dual)
    assert torch.equal(steepest_direction(torch.zeros(1, 2, 2), norm), torch.zeros(1, 2, 2))


def test_a_start_belongs_to_its_example():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    both = random_start(torch.tensor([5, 9]), (3, 2), 0.1, seed=1)
    assert torch.equal(random_start(torch.tensor([9]), (3, 2), 0.1, seed=1)[0], both[1])
    assert both.abs().max() <= 0.1
    assert torch.equal(torch.get_rng_state(), before), "no global draw is used up"


def dropped() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()


X, Y = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.tensor([0, 1, 2, 0])
EVERYWHERE = torch.ones(4, 2, dtype=torch.bool)


def test_freelb_without_eps_is_plain_training_bit_for_bit():
    """Both ascents then see one point; only with the same dropout mask do their halves add up to the plain gradient."""
    plain, free = dropped(), dropped()
    torch.manual_seed(7)
    cross_entropy(plain(X), Y).backward()
    torch.manual_seed(7)
    freelb(lambda d: cross_entropy(free(X + d), Y), 0 * X, eps=0.0, steps=2, step_size=0.0, where=EVERYWHERE)
    for expected, got in zip(plain.parameters(), free.parameters(), strict=True):
        assert torch.equal(expected.grad, got.grad)


def test_freelb_sees_one_dropout_mask_in_all_ascents_and_another_one_next_time():
    seen = []
    net = dropped()
    net[2].register_forward_hook(lambda module, given, out: seen.append(out == 0))
    for _ in range(2):
        freelb(lambda d: cross_entropy(net(X + d), Y), 0 * X, eps=0.1, steps=3, step_size=0.1, where=EVERYWHERE)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[2], seen[3])


def test_freelb_reaches_the_boundary_of_a_linear_loss_and_moves_only_what_it_may():
    weight = torch.tensor([[[1.0, 2.0], [2.0, 4.0]]], dtype=torch.float64)
    where, seen = torch.tensor([[True, False]]), []

    def loss(delta):
        seen.append(delta.detach())
        return (weight * delta).sum()

    freelb(loss, 0 * weight, eps=0.5, steps=3, step_size=0.4, where=where)
    best = 0.5 * weight[0, 0] / math.sqrt(5)
    assert torch.allclose(seen[-1][0, 0], best)
    assert torch.equal(seen[-1][0, 1], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("term", [smart, alum])
def test_a_constant_answer_has_no_term_and_a_steep_one_has(term):
    options = {"eps": 0.1, "steps": 1, "step_size": 0.1, "where": EVERYWHERE}
    start = random_start(torch.arange(4), (2, 3), 0.01, seed=0).double()
    net = dropped().eval()
    assert (term(lambda d: net(X + 0 * d), net(X), start, **options) == 0).all()
    small = term(lambda d: net(X + d), net(X), start, **options)
    large = term(lambda d: net(X + d), net(X), start, **{**options, "eps": 0.2, "step_size": 0.2})
    assert (small > 0).all()
    assert (large > small).all()


def test_smart_teaches_both_answers_and_alum_only_the_perturbed_one():
    start = random_start(torch.arange(4), (2, 3), 0.01, seed=0).double()
    options = {"eps": 0.1, "steps": 1, "step_size": 0.1, "where": EVERYWHERE}
    for term, flows in ((smart, True), (alum, False)):
        net = dropped().eval()
        clean = net(X).detach().requires_grad_()
        term(lambda d, net=net: net(X + d), clean, start, **options).sum().backward()
        assert (clean.grad is not None) == flows
        assert net[1].weight.grad.abs().sum() > 0


def test_the_search_of_smart_leaves_no_gradient_in_weights():
    net = dropped()
    clean = net(X).detach()
    with replayed_rng():
        smart(lambda d: net(X + d), clean, 0.01 + 0 * X, eps=0.1, steps=2, step_size=0.1, where=EVERYWHERE)
    assert all(weight.grad is None for weight in net.parameters())

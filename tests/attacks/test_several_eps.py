"""Laws of one attack at several eps: it agrees with single calls, never rises with eps, and spends on survivors alone."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch

from advreg import ThreatModel
from advreg.attacks import attack_at_each_eps, pgd, verify
from advreg.errors import ConfigError
from tests.attacks.models import Counter, small_cnn

X = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = small_cnn()(X).argmax(1)
EPS = {"linf": [0.08, 0.02, 0.04], "l2": [0.6, 0.1, 0.3], "l1": [6.0, 1.0, 3.0]}


@pytest.mark.parametrize("norm", EPS)
def test_smallest_eps_equals_a_single_call(norm: str) -> None:
    threat = ThreatModel(norm, 0.0)
    found = attack_at_each_eps(pgd, small_cnn(), X, Y, threat, eps=EPS[norm], steps=7, seed=3)
    single = pgd(small_cnn(), X, Y, threat.with_eps(min(EPS[norm])), steps=7, seed=3)
    assert torch.equal(found[1].x_adv, single.x_adv)
    assert torch.equal(found[1].cost, single.cost)


@pytest.mark.parametrize("norm", EPS)
def test_robust_accuracy_never_rises_with_eps(norm: str) -> None:
    threat = ThreatModel(norm, 0.0)
    found = attack_at_each_eps(pgd, small_cnn(), X, Y, threat, eps=EPS[norm], steps=5)
    ordered = [found[k] for k in (1, 2, 0)]
    for smaller, larger in itertools.pairwise(ordered):
        assert (larger.broken | ~smaller.broken).all()
        assert (larger.cost >= smaller.cost).all()
    assert float(ordered[0].broken.sum()) < float(ordered[-1].broken.sum()), "the test needs an example in between"
    for eps, result in zip(EPS[norm], found, strict=True):
        assert torch.equal(verify(small_cnn(), X, result.x_adv, Y, threat.with_eps(eps)), result.broken)


def test_broken_examples_cost_nothing_at_larger_eps() -> None:
    model = small_cnn()
    count = Counter(model)
    found = attack_at_each_eps(pgd, model, X, Y, ThreatModel("linf", 0.0), eps=[0.04, 0.08], steps=5)
    assert (found[1].forwards, found[1].backwards) == (count.forwards, count.backwards)
    assert (found[1].cost[found[0].broken] == found[0].cost[found[0].broken]).all()


def test_empty_eps_is_rejected() -> None:
    with pytest.raises(ConfigError, match="eps is empty"):
        attack_at_each_eps(partial(pgd, steps=1), small_cnn(), X, Y, ThreatModel("linf", 0.1), eps=[])

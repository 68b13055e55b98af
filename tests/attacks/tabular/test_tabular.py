"""Constrained PGD and the search by mutation: draws, costs, attacked classes, derived features."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from advreg.attacks.tabular import capgd, mutate
from advreg.attacks.tabular.mutate import ROUND
from advreg.constraints import FeatureRules
from advreg.norms import NORMS
from advreg.pass_counting import count_passes
from advreg.threat import ThreatModel
from tests.constraints.loans import HIGH, LOW, loan_threat, loans, violations

ATTACKS = [functools.partial(capgd, steps=10), functools.partial(mutate, queries=44)]


class Score(nn.Module):
    """Two classes by a network on scaled columns."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(4)
        self.first = nn.Parameter(torch.randn(12, 16, generator=g))
        self.second = nn.Parameter(torch.randn(16, 2, generator=g))
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        unit = (rows - LOW) / (HIGH - LOW).clamp_max(50000.0)
        return torch.tanh(unit @ self.first) @ self.second


@functools.cache
def rows() -> tuple[nn.Module, Tensor, Tensor]:
    model, x = Score(), loans(24)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("norm", NORMS)
def test_points_keep_the_rules_and_draws_belong_to_the_id(norm: str, attack) -> None:
    model, x, y = rows()
    threat, ids = loan_threat(norm, 1.5), torch.arange(100, 124)
    whole = attack(model, x, y, threat, ids=ids, early_stop=False, seed=3)
    assert not violations(whole.x_adv, x, norm, 1.5).any()
    few = torch.tensor([7, 2, 19])
    part = attack(model, x[few], y[few], threat, ids=ids[few], early_stop=False, seed=3)
    torch.testing.assert_close(part.x_adv, whole.x_adv[few])


@pytest.mark.parametrize("attack", ATTACKS)
def test_passes_are_counted_exactly(attack) -> None:
    model, x, y = rows()
    for early_stop in (False, True):
        with count_passes(model) as passes:
            found = attack(model, x, y, loan_threat("l2", 0.5), early_stop=early_stop)
        assert (found.forwards, found.backwards) == (passes.forwards, passes.backwards)


def test_mutate_spends_no_more_than_its_queries() -> None:
    model, x, y = rows()
    for queries in (3, ROUND, 21):
        found = mutate(model, x, y, loan_threat("l2", 1e-6), queries=queries, early_stop=False)
        assert found.cost.tolist() == [[queries + 2, 0]] * len(x)


@pytest.mark.parametrize("attack", ATTACKS)
def test_direction_attacks_one_class_only(attack) -> None:
    model, x, y = rows()
    found = attack(model, x, y, loan_threat("linf", 2.0), direction=1, early_stop=False)
    moved = (found.x_adv != x).any(1)
    assert not bool(moved[y == 0].any())
    assert bool(moved[y == 1].any())


def test_more_queries_never_break_fewer_rows() -> None:
    model, x, y = rows()
    threat = loan_threat("l1", 2.0)
    assert int(mutate(model, x, y, threat, queries=80, restarts=2).broken.sum()) >= int(
        mutate(model, x, y, threat, queries=80).broken.sum()
    )


def test_capgd_follows_derived_features() -> None:
    """The model reads only a derived feature, so that its own gradient says nothing about the others."""
    rules = FeatureRules(relations=("c = a * b",), names=("a", "b", "c"))
    threat = ThreatModel("linf", 0.2, (0.0, 9.0), scale=[1.0, 1.0, torch.inf], rules=rules)

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([9 - x[:, 2], x[:, 2]], 1)

    x = torch.tensor([[2.0, 2.1, 4.2]])
    x = rules.derive(x)
    found = capgd(Product().eval(), x, torch.tensor([0]), threat, steps=10)
    assert found.broken.tolist() == [True]
    torch.testing.assert_close(found.x_adv[:, 2], found.x_adv[:, 0] * found.x_adv[:, 1])


def test_mutate_runs_without_scale_or_rules_on_images() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    threat = ThreatModel("linf", 0.3)
    found = mutate(model, x, model(x).argmax(1), threat, queries=200)
    assert bool(threat.contains(found.x_adv, x).all())
    assert int(found.broken.sum()) > 0

"""Rules of valid rows: relations read by a whitelist, repair that never leaves the threat model, verification by name."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from advreg import ThreatModel, attacks
from advreg.attacks.verification import verify
from advreg.constraints import FeatureRules
from advreg.constraints.relations import compile_relation
from advreg.errors import DataError, ThreatError
from advreg.norms import NORMS

from .loans import HIGH, LOW, NAMES, RULES, loan_threat, loans, repaired, violations


@pytest.mark.parametrize("eps", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("norm", NORMS)
def test_repaired_points_keep_every_rule_in_float64(norm: str, eps: float) -> None:
    x, points, fell_back = repaired(1200, norm, eps)
    assert not violations(points, x, norm, eps).any()
    assert bool(loan_threat(norm, eps).contains(points, x, 1e-9).all())
    assert float(fell_back.double().mean()) < 0.01
    assert float((points != x).any(1).double().mean()) > 0.5


@pytest.mark.parametrize("norm", NORMS)
def test_repair_returns_a_repaired_point_as_it_is(norm: str) -> None:
    x, points, _ = repaired(300, norm, 1.0)
    assert torch.equal(loan_threat(norm, 1.0).repair(points, x), points)


@pytest.mark.parametrize("norm", NORMS)
def test_a_whole_step_of_exactly_eps_is_kept(norm: str) -> None:
    threat = ThreatModel(norm, 0.3, (0.0, 100.0), scale=[10.0, 1.0], rules=FeatureRules(integer=(0,)))
    x = torch.tensor([[7.0, 0.5]])
    target = torch.tensor([[12.0, 0.5]])
    assert threat.repair(target, x)[0, 0] == 10.0


@pytest.mark.parametrize(("norm", "scale"), [("l1", 2.0), ("l2", 2**0.5), ("linf", 1.0)])
def test_a_change_of_category_costs_one_unit(norm: str, scale: float) -> None:
    rules, x = FeatureRules(groups=((0, 1, 2),)), torch.tensor([[1.0, 0.0, 0.0]])
    for eps, moves in ((1.0, True), (0.99, False)):
        threat = ThreatModel(norm, eps, scale=[scale] * 3, rules=rules)
        found = threat.repair(torch.tensor([[0.1, 0.0, 0.9]]), x)
        assert bool((found != x).any()) == moves


def test_derived_features_follow_and_pass_gradients() -> None:
    rules = FeatureRules(relations=("c = a * b", "d = c + 1"), names=("a", "b", "c", "d"))
    row = torch.tensor([[2.0, 3.0, 0.0, 0.0]], requires_grad=True)
    found = rules.derive(row)
    assert found[0].tolist() == [2.0, 3.0, 6.0, 7.0]
    assert torch.autograd.grad(found[0, 3], row)[0][0].tolist() == [3.0, 2.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('x') <= 1",
        "a.real <= b",
        "a[0] <= b",
        "(lambda: 1)() <= b",
        "a if b else a <= b",
        "'a' <= b",
        "True <= b",
        "a <= b <= a",
        "open(a) <= b",
        "log(a, b) <= b",
        "a + <= b",
        "a",
        "-" * 400 + "a <= b",
        "a <= b" + " " * 600,
    ],
)
def test_relations_outside_the_whitelist_raise_one_line(text: str) -> None:
    with pytest.raises(ThreatError) as caught:
        compile_relation(text, ["a", "b"]).holds(torch.ones(1, 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a <= b", [True, False]),
        ("b >= a", [True, False]),
        ("a + 1 = b", [True, False]),
        ("max(a, b) <= 2", [True, False]),
        ("log(a) / 2 ** 2 <= `odd name` - min(a, 3)", [False, False]),
        ("a ** 9 ** 9 ** 9 <= b", [True, False]),
    ],
)
def test_relations_hold_as_arithmetic_says(text: str, kept: list[bool]) -> None:
    rows = torch.tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 0.0]])
    assert compile_relation(text, ["a", "b", "odd name"]).holds(rows).tolist() == kept


def test_unknown_names_and_circles_raise() -> None:
    with pytest.raises(ThreatError, match="Did you mean 'income'"):
        compile_relation("incme <= amount", NAMES)
    with pytest.raises(ThreatError, match="circle"):
        FeatureRules(relations=("x0 = x1", "x1 = x0 + 1"))
    with pytest.raises(ThreatError, match="one-hot group"):
        FeatureRules(groups=((0, 1), (1, 2)))
    with pytest.raises(ThreatError, match="only up"):
        FeatureRules(one_sided=(2,))


def test_clean_rows_that_break_the_rules_are_counted() -> None:
    x, y = loans(20), torch.zeros(20, dtype=torch.long)
    x[3, 5] = x[3, 6] + 1
    x[7, 5] = x[7, 6] + 1
    model = nn.Linear(12, 2).eval()
    with pytest.raises(DataError, match="2 of 20 clean rows break the rules, most of them 'open_accounts <= total"):
        attacks.pgd(model, x, y, loan_threat("linf", 0.3))


def test_whole_numbers_too_large_for_float32_raise() -> None:
    rules = FeatureRules(integer=(0,))
    with pytest.raises(DataError, match="give float64 inputs"):
        rules.reject_invalid(torch.tensor([[2.0**25, 1.0]]))
    rules.reject_invalid(torch.tensor([[2.0**25, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize(
    "attack",
    [partial(attacks.pgd, steps=20), partial(attacks.apgd, steps=20), partial(attacks.random_search, queries=20)],
)
@pytest.mark.parametrize("norm", NORMS)
def test_attacks_query_and_return_points_that_keep_the_rules(norm: str, attack) -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            seen.append(rows.detach().clone())
            z = ((rows - LOW) / (HIGH - LOW)).sum(1)
            return torch.stack([z, 4 - z], 1)

    x, model = loans(16), Spy().eval()
    y = model(x).argmax(1)
    seen.clear()
    found = attack(model, x, y, loan_threat(norm, 1.0), early_stop=False)
    assert not violations(found.x_adv, x, norm, 1.0).any()
    queried = [rows for rows in seen if len(rows) == 16]
    assert len(queried) >= 20
    assert all(bool(RULES.kept(rows).all()) for rows in queried)
    assert torch.equal(verify(model, x, found.x_adv, y, loan_threat(norm, 1.0)), found.broken)


def test_verification_names_the_first_broken_rule() -> None:
    x = loans(3)
    a = x.clone()
    a[0, 1] += 0.5
    a[1, 9:] = 0.5
    a[2, 3] *= 2
    assert RULES.first_broken(a) == [
        "term is a whole number",
        "exactly one of own, rent, mortgage is 1",
        "installment = amount / term * (1 + rate)",
    ]
    assert not bool(loan_threat("linf", 2.0).contains(a, x, 1e-6).any())


def test_rules_compare_by_value_and_are_named_in_ids() -> None:
    assert loan_threat("l2", 1.0) == loan_threat("l2", 1.0)
    other = ThreatModel("l2", 1.0, rules=FeatureRules(integer=(0,)))
    assert other != ThreatModel("l2", 1.0)
    assert other.suffix.startswith("-rules-")
    assert ThreatModel("l2", 1.0).suffix == ""

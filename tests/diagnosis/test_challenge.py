"""Challenges: examples tried, their order and the stopping rule, with attacks that break given ids."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Set
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg import attacks
from advreg.diagnosis import diagnose, surrogate
from advreg.diagnosis.budget import Budget, budget_for
from advreg.diagnosis.challenge import challenge_figure
from advreg.diagnosis.checks import convergence
from advreg.diagnosis.checks.binarization import binarisation
from advreg.diagnosis.context import DiagnosisContext
from advreg.diagnosis.reported_accuracy import run_stages_in_turn
from advreg.evaluation import evaluate
from advreg.evaluation.protocols import ProtocolStage
from advreg.results.checks import GAP
from advreg.statistics import clopper_pearson_interval

from . import planted
from .conftest import TINY, digits


def context(n: int, *, budget: Budget | None = None) -> DiagnosisContext:
    """A context in which every example is robust; example i is the (7 i mod n)-th nearest to the boundary."""
    model, right = nn.Flatten(), torch.ones(n, dtype=torch.bool)
    x, y, ids = torch.rand(n, 1, 1, 3), torch.zeros(n, dtype=torch.int64), torch.arange(n)
    return DiagnosisContext(
        model=model, x=x, y=y, ids=ids, right=right, robust=right, threat=advreg.ThreatModel("linf", 0.1),
        attack=attacks.pgd, claim="pgd-40", nearness=-((7.0 * ids) % n), budget=budget or Budget(),
    )  # fmt: skip


def breaking(which: Set[int] | range) -> tuple[Callable[..., Any], list[list[int]]]:
    """Return an attack that breaks these examples, and the batches of ids that it was given."""
    given: list[list[int]] = []

    def attack(model: nn.Module, x: Tensor, y: Tensor, threat: advreg.ThreatModel, *, ids: Tensor) -> Any:
        given.append(ids.tolist())
        return SimpleNamespace(broken=torch.tensor([i in which for i in ids.tolist()]), x_adv=x)

    return attack, given


def nearest(n: int, count: int) -> list[int]:
    return sorted(range(n), key=lambda i: (7 * i) % n)[:count]


def test_challenge_tries_all_if_the_nearer_half_breaks() -> None:
    attack, given = breaking({nearest(200, 2)[1], nearest(200, 100)[99]})
    found = challenge_figure(context(200), attack, "x", "A", "it")
    assert given == [nearest(200, 32), nearest(200, 64)[32:]]
    assert found.says == "it breaks 1 of 64 examples that the figure counts as robust"
    assert found.measured == 1 / 200
    assert found.interval == clopper_pearson_interval(1, 200)


def test_a_challenger_stops_if_the_nearer_half_holds() -> None:
    attack, given = breaking(set(nearest(200, 64)[32:]))
    found = challenge_figure(context(200), attack, "x", "A", "it")
    assert given == [nearest(200, 32)]
    assert (found.verdict, found.measured) == ("pass", 0.0)


def test_challengers_share_one_list_of_survivors() -> None:
    whole, (first, _), (second, given) = context(200), breaking(set(nearest(200, 5))), breaking(set())
    challenge_figure(whole, first, "x", "A", "it")
    challenge_figure(whole, second, "y", "A", "it")
    assert given == [nearest(200, 64)[5:35]]


@pytest.mark.parametrize("n", [200, 1000, 4000])
def test_challenge_goes_on_until_failure_is_certain(n: int) -> None:
    attack, given = breaking(range(n))
    found = challenge_figure(context(n), attack, "x", "A", "it")
    tried = sum(map(len, given))
    assert found.verdict == "fail"
    assert [i for batch in given for i in batch] == nearest(n, tried)
    assert clopper_pearson_interval(tried // 2, n)[0] <= GAP or tried == 32, "half of them would not have been enough"


@pytest.mark.parametrize("count", [2, 3])
def test_every_stage_draws_from_its_own_stream(count: int) -> None:
    starts: list[Tensor] = []

    def idle(model: nn.Module, x: Tensor, y: Tensor, threat: advreg.ThreatModel, *, ids: Tensor, seed: int) -> Any:
        starts.append(threat.random_start(x, ids, seed, 0))
        return attacks.pgd(model, x, y, threat.with_eps(0.0), steps=1, ids=ids, seed=seed)

    x, model = torch.full((4, 2), 0.5), nn.Linear(2, 2).eval()
    stages = tuple(ProtocolStage(f"{k}", idle) for k in range(count))
    run_stages_in_turn(stages)(
        model, x, model(x).argmax(1), advreg.ThreatModel("linf", 0.1), ids=torch.arange(4), seed=3
    )
    assert len(starts) == count
    assert not any(torch.isin(a, b).any() for a, b in itertools.combinations(starts, 2))


def test_an_expensive_challenger_begins_with_few() -> None:
    attack, given = breaking(set(nearest(200, 1)))
    challenge_figure(context(200), attack, "x", "A", "it", first=12)
    assert given == [nearest(200, 12)]


def test_challenge_without_survivors_is_skipped() -> None:
    whole, (all_of_them, _), (other, given) = context(60), breaking(range(60)), breaking(range(60))
    while len(whole.survivors.sample):  # each stops once its failure is certain
        challenge_figure(whole, all_of_them, "x", "A", "it")
    assert challenge_figure(whole, other, "steps", "B", "it").verdict == "skipped"
    assert given == []
    assert convergence.attacked("", [], whole).verdict == "pass"
    assert convergence.attacked("", [], context(60)).verdict == "suspect"


def test_binarisation_stops_when_its_grade_is_certain() -> None:
    calls: list[int] = []

    def idle(model: nn.Module, x: Tensor, y: Tensor, threat: advreg.ThreatModel) -> attacks.AttackResult:
        calls.append(len(x))
        return attacks.pgd(model, x, y, threat.with_eps(0.0), steps=1)

    x, y = digits(20)
    right = torch.ones(20, dtype=torch.bool)
    whole = DiagnosisContext(
        model=planted.plain(), x=x, y=y, ids=torch.arange(20), right=right, robust=right,
        threat=planted.BROAD, attack=idle, claim="mine", budget=Budget(),
    )  # fmt: skip
    assert binarisation(whole).verdict == "fail"
    assert len(calls) == 4, "four misses of four are more than a fifth for certain"


@pytest.mark.parametrize(
    ("missing", "tried", "outcome"),
    [
        (lambda k: k % 5 > 2, 25, "fail"),  # 8 of 20 may be a fifth by chance, 10 of 25 may not
        (lambda k: k % 4 == 3, 48, "suspect"),
        (lambda k: k == 3, 18, "pass"),
    ],
)
def test_binarisation_goes_on_while_its_grade_is_in_doubt(
    missing: Callable[[int], bool], tried: int, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def by_turns(*_: object) -> tuple[bool, bool]:
        calls.append(len(calls))
        return not missing(calls[-1]), False

    monkeypatch.setattr(importlib.import_module("advreg.diagnosis.checks.binarization"), "_try_planted", by_turns)
    x, y = digits(60)
    right = torch.ones(60, dtype=torch.bool)
    whole = DiagnosisContext(
        model=planted.plain(), x=x, y=y, ids=torch.arange(60), right=right, robust=right,
        threat=planted.NARROW, attack=attacks.pgd, claim="mine", budget=Budget(),
    )  # fmt: skip
    assert binarisation(whole).verdict == outcome
    assert len(calls) == tried


def test_a_surrogate_is_trained_once_for_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[bool] = []
    real = surrogate.train_surrogate

    def counted(*given: Any, adversarial: bool, **options: Any) -> nn.Module:
        kinds.append(adversarial)
        return real(*given, adversarial=adversarial, **{**options, "steps": 5})

    monkeypatch.setattr(surrogate, "train_surrogate", counted)
    budget = Budget(20, 10, 20, 10, 8, 4, 99)
    diagnose(planted.plain(), digits(60), advreg.ThreatModel("linf", 0.03), budget=budget, adapt=True)
    assert kinds == [True, False]


def test_budgets_grow_with_the_examples_from_two_hundred_on() -> None:
    assert budget_for(50) == budget_for(200) == Budget()
    assert budget_for(500).examples == 160


@pytest.mark.parametrize(("name", "eps"), [("plain", 0.03), pytest.param("PGD-trained", 0.1, marks=pytest.mark.slow)])
def test_an_honest_figure_of_strong_is_trusted(name: str, eps: float, tmp_path: Any) -> None:
    model, threat = planted.named(name).make(), advreg.ThreatModel("linf", eps)
    evaluate(model, digits(), threat=threat, protocol="strong", out=tmp_path)
    found = diagnose(model, digits(), threat, budget=TINY, out=tmp_path)
    assert "strong" in found.claim
    assert found.verdict == "TRUSTED", [check for check in found.checks if check.remedy]

"""A network that learned nothing is never trusted, and an honest one on unequal, small or easy data is never blamed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg import report
from advreg.diagnosis import diagnose
from advreg.evaluation import evaluate
from advreg.evaluation.learning import chance, one_class
from advreg.report import read
from advreg.results.checks import provisional_verdict

from .conftest import TINY

THREAT = advreg.ThreatModel("linf", 8 / 255)


class Constant(nn.Module):
    """Predicts class 1 whatever it is shown, with gradients that look like any other's."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return 1e-3 * self.linear(x.flatten(1)) + torch.tensor([0.0, 5.0, 0.0])


def constant(n: int = 120) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return Constant().eval(), (torch.rand(n, 1, 8, 8), torch.arange(n) % 3)


def mixed(*counts: int) -> list[int]:
    """Labels of classes 0, 1, ... with so many examples each."""
    return [label for label, count in enumerate(counts) for _ in range(count)]


def with_errors(labels: Sequence[int], wrong: int, step: int = 7) -> list[int]:
    """Predictions that miss some examples, spread over the classes."""
    missed = {k * step % len(labels) for k in range(wrong)}
    top = max(labels) + 1
    return [(label + 1) % top if k in missed else label for k, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "predicted", "expected"),
    [
        (mixed(*[20] * 10), [3] * 200, ("fail", "suspect")),
        (mixed(50, 50), [1] * 100, ("fail", "suspect")),
        (mixed(190, 10), [0] * 200, ("fail", "suspect")),
        (mixed(997, 3), [0] * 1000, ("suspect", "suspect")),
        (mixed(4, 2, 2), [2] * 8, ("fail", "suspect")),
        (mixed(*[100] * 10), [3] * 990 + [4] * 10, ("fail", "suspect")),
        (mixed(50, 50), [0, 1] * 50, ("pass", "suspect")),
        (mixed(50, 50), [1] * 50 + [0] * 50, ("pass", "suspect")),
    ],
)
def test_predictions_of_nothing_learned_are_noticed(
    labels: list[int], predicted: list[int], expected: tuple[str, str]
) -> None:
    assert (one_class(labels, predicted).verdict, chance(labels, predicted).verdict) == expected


@pytest.mark.parametrize(
    ("labels", "predicted"),
    [
        (mixed(*[20] * 10), with_errors(mixed(*[20] * 10), 120)),  # robust and weak: 40% of ten classes
        (mixed(50, 50), with_errors(mixed(50, 50), 30)),
        (mixed(900, 100), [0] * 930 + [1] * 70),  # one class dominates, the network finds most of the other
        (mixed(6, 6), mixed(6, 6)),
        (mixed(1, 1, 1, 1, 1), mixed(1, 1, 1, 1, 1)),
        (list(range(64)) * 2, with_errors(list(range(64)) * 2, 100)),
    ],
)
def test_honest_predictions_pass(labels: list[int], predicted: list[int]) -> None:
    assert (one_class(labels, predicted).verdict, chance(labels, predicted).verdict) == ("pass", "pass")


def test_data_of_one_class_say_nothing_of_learning() -> None:
    assert one_class([4] * 90, [4] * 90).verdict == chance([4] * 90, [4] * 90).verdict == "skipped"


def test_examples_too_few_to_tell_are_blamed_themselves() -> None:
    found = chance(mixed(58, 2), mixed(58, 2))
    assert (found.verdict, found.cause) == ("suspect", "few examples")
    assert chance(mixed(58, 2), [1] * 60).cause == "not learning", "surely below the largest class"


def test_chance_is_measured_against_the_largest_class() -> None:
    found = chance(mixed(40, 40, 40), [1] * 120)
    assert found.measured == pytest.approx(1 / 3)
    assert found.threshold == pytest.approx(1 / 3)
    assert found.interval == advreg.statistics.clopper_pearson_interval(40, 120)


@pytest.mark.parametrize("protocol", ["quick", "strong"])
def test_an_evaluation_of_a_constant_network_is_unreliable(protocol: str) -> None:
    model, data = constant()
    found = evaluate(model, data, threat=THREAT, protocol=protocol)
    assert found.verdict == "UNRELIABLE"
    raised = {check.name: check for check in found.checks if check.verdict in ("suspect", "fail")}
    assert set(raised) >= {"one-class", "chance"}
    assert all(check.cause == "not learning" and check.remedy for check in raised.values())


def test_an_evaluation_without_a_second_class_is_not_trusted() -> None:
    checks = evaluate(*_one_class_data(), threat=THREAT, protocol="strong").checks
    assert provisional_verdict(checks) is None


def _one_class_data() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    model, (x, y) = constant(20)
    return model, (x, torch.ones_like(y))


@pytest.mark.parametrize("kept", [False, True])
def test_a_diagnosis_of_a_constant_network_is_unreliable(kept: bool, tmp_path: Path) -> None:
    model, data = constant()
    if kept:
        evaluate(model, data, threat=THREAT, protocol="quick", out=tmp_path)
    found = diagnose(model, data, THREAT, budget=TINY, out=tmp_path if kept else None)
    assert found.verdict == "UNRELIABLE"
    assert found.causes[0] == "not learning"
    assert (found.check("one-class").verdict, found.check("chance").verdict) == ("fail", "suspect")


def test_report_and_card_name_a_constant_network(tmp_path: Path) -> None:
    model, data = constant()
    evaluate(model, data, threat=THREAT, protocol="quick", out=tmp_path)
    record = json.loads(next(tmp_path.glob("evaluation/*/results.json")).read_text())
    assert record["verdict"] == "UNRELIABLE"
    page, card = report.write(tmp_path).read_text(), report.model_card(read.run(tmp_path))
    for text in (page, card):
        assert "100.0% of 120 clean examples are predicted as class 1" in text
        assert "is not above chance" in text

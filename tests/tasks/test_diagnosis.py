"""Diagnoses of tasks: a masked gradient is found, an honest model is not accused, and what cannot be checked is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg import tasks
from advreg.diagnosis import diagnose
from advreg.threat import ThreatModel

NUMBER = tasks.number(0.15)


class Rounded(nn.Module):
    """A model that rounds its input with a gradient of zero: it masks the gradient of the model inside."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net((x * 20).round() / 20 + 0 * x)
        return out


def linear() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = nn.Linear(6, 1).eval().requires_grad_(False), 0.2 + 0.6 * torch.rand(40, 6)
    return model, x, model(x)[:, 0] + 0.05 * torch.randn(40)


def test_an_honest_model_is_trusted_and_the_rest_is_skipped_with_a_reason(tmp_path: Path) -> None:
    model, x, y = linear()
    found = diagnose(model, (x, y), ThreatModel("linf", 0.1), task=NUMBER, out=tmp_path)
    by_name = {check.name: check for check in found.checks}
    assert found.verdict == "TRUSTED", [check for check in found.checks if check.verdict in ("suspect", "fail")]
    assert {"one-step", "steps", "unbounded", "black-box", "random-search"} <= {
        name for name, check in by_name.items() if check.verdict == "pass"
    }
    assert by_name["transfer"].says == "for classes: its surrogate is a classifier"
    assert (tmp_path / "diagnosis.json").is_file()


def test_a_masked_gradient_is_found_in_any_task() -> None:
    model, x, y = linear()
    found = diagnose(Rounded(model).eval(), (x, y), ThreatModel("linf", 0.1), task=NUMBER)
    assert found.verdict == "UNRELIABLE"
    failed = {check.name for check in found.checks if check.verdict == "fail"}
    assert "zero-gradients" in failed


def test_the_figure_is_that_of_an_evaluation_of_the_same_folder(tmp_path: Path) -> None:
    model, x, y = linear()
    evaluated = advreg.evaluate(model, (x, y), "linf:0.1", task=NUMBER, out=tmp_path)
    found = diagnose(model, (x, y), "linf:0.1", task=NUMBER, out=tmp_path)
    assert (found.claim, found.robust_accuracy) == (evaluated.protocol, evaluated.robust_accuracy)


def test_adaptive_attacks_are_for_classes() -> None:
    model, x, y = linear()
    with pytest.raises(advreg.errors.ConfigError, match="adaptive attacks are for classes"):
        diagnose(model, (x, y), "linf:0.1", task=NUMBER, adapt=True)


def test_an_evaluation_of_scores_counts_no_broken_examples() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(6, 4).eval().requires_grad_(False), torch.rand(20, 6)
    found = advreg.evaluate(model, (x, (model(x) > 0).long()), "linf:0.1", task="labels:score=share")
    skipped = {check.name: check.says for check in found.checks if check.verdict == "skipped"}
    assert "scores fall by degrees" in skipped["black-box"]
    assert found.verdict is None

"""Whatever a model does, it is diagnosed, or refused in one line: never a traceback from the middle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg.diagnosis import diagnose
from advreg.errors import DataError, ModelError, ThreatError

from . import planted
from .conftest import TINY, Diagnose, digits

THREAT = advreg.ThreatModel("linf", 0.2)


def test_no_gradient_path_skips_what_needs_one_and_still_asks_the_rest(diagnosed: Diagnose) -> None:
    found = diagnosed("thermometer code")
    assert found.check("gradient-path").verdict == "fail"
    assert found.check("steps").verdict == "skipped"
    assert found.check("black-box").verdict == "fail"


def test_a_model_that_raises_in_backward_says_what_it_raised(diagnosed: Diagnose) -> None:
    assert "no backward here" in diagnosed("raises in backward").check("gradient-path").says


def test_the_model_is_left_in_the_mode_it_came_in() -> None:
    model = planted.dropping()
    before = [module.training for module in model.modules()]
    diagnose(model, digits(8), THREAT, budget=TINY)
    assert [module.training for module in model.modules()] == before
    assert any(before)


def test_two_classes_are_enough() -> None:
    model, (x, y) = planted.two_class()
    found = diagnose(model, (x[:40], y[:40]), THREAT, budget=TINY)
    assert found.verdict == "TRUSTED", [check for check in found.checks if check.remedy]
    assert "fewer than 4" in found.check("few-classes").says


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_every_norm_and_vectors_instead_of_images(norm: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = torch.rand(30, 20)
    found = diagnose(model, (x, model(x).argmax(1)), advreg.ThreatModel(norm, 0.1), budget=TINY)  # type: ignore[arg-type]
    assert found.verdict != "UNRELIABLE", [check for check in found.checks if check.remedy]


def test_a_network_that_is_always_wrong() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    x, _ = digits(10)
    found = diagnose(model, (x, (model(x).argmax(1) + 1) % 10), THREAT, budget=TINY)
    assert found.robust_accuracy == 0.0
    assert found.verdict == "TRUSTED"


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("not today")


def test_a_model_that_does_not_run_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match="not today"):
        diagnose(Failing().eval(), digits(8), THREAT)


def test_data_that_do_not_fit_are_refused_in_one_line() -> None:
    x, y = digits(8)
    with pytest.raises(DataError, match="divide images by 255"):
        diagnose(planted.plain(), (x * 255, y), THREAT)


@pytest.mark.parametrize(
    ("norm", "eps", "said"),
    [
        ("linf", 0.0, "linf:0 allows no change"),
        ("l2", 0.0, "l2:0 allows no change"),
        ("linf", torch.full((8,), 0.1), "one number for all"),
    ],
)
def test_a_radius_that_cannot_be_diagnosed_is_refused_in_one_line(
    norm: advreg.threat.Norm, eps: float | Tensor, said: str
) -> None:
    with pytest.raises(ThreatError, match=said):
        diagnose(planted.plain(), digits(8), advreg.ThreatModel(norm, eps), budget=TINY)


class Learning(nn.Module):
    """Takes a step on its own input before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = planted.plain()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.net(leaf).logsumexp(1).sum(), leaf)
        answer: Tensor = self.net(x - 0.01 * slope.sign())
        return answer


def test_optimisation_at_test_time_is_flagged() -> None:
    found = diagnose(Learning().eval(), digits(20), THREAT, budget=TINY)
    assert found.check("test-time-optimisation").verdict == "suspect"
    assert "test-time optimisation" in found.causes


def test_a_check_that_raises_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from advreg.diagnosis import run

    def unlucky(subject: object) -> object:
        raise ValueError("seven years")

    monkeypatch.setattr(run, "QUESTIONS", {"A": (unlucky,)})
    found = run.diagnose(planted.plain(), digits(8), THREAT, budget=TINY)
    assert found.check("unlucky").verdict == "skipped"
    assert "seven years" in found.check("unlucky").says
    with pytest.raises(KeyError, match="no check 'luck'"):
        found.check("luck")

"""A diagnosis of any model ends with a verdict or with one error line."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg.diagnosis import diagnose
from advreg.errors import DataError, ModelError, ThreatError
from advreg.results.checks import Check, grade_check

from . import planted
from .conftest import TINY, Diagnose, digits

THREAT = advreg.ThreatModel("linf", 0.2)


def test_no_gradient_path_skips_gradient_checks_only(diagnosed: Diagnose) -> None:
    found = diagnosed("thermometer code")
    assert found.check("gradient-path").verdict == "fail"
    assert found.check("steps").verdict == "skipped"
    assert found.check("black-box").verdict == "fail"


def test_gradient_path_quotes_the_error_of_backward(diagnosed: Diagnose) -> None:
    assert "no backward here" in diagnosed("raises in backward").check("gradient-path").says


def test_the_model_is_left_in_the_mode_it_came_in() -> None:
    model = planted.dropping()
    before = [module.training for module in model.modules()]
    diagnose(model, digits(8), THREAT, budget=TINY)
    assert [module.training for module in model.modules()] == before
    assert any(before)


def test_two_classes_are_enough() -> None:
    model, (x, y) = planted.two_class()
    found = diagnose(model, (x[:60], y[:60]), THREAT, budget=TINY)
    assert found.verdict == "TRUSTED", [check for check in found.checks if check.remedy]
    assert "fewer than 4" in found.check("few-classes").says
    assert "does not take two" in found.check("binarisation").says  # it sums fives of ten


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_every_norm_and_vectors_instead_of_images(norm: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = torch.rand(30, 20)
    found = diagnose(model, (x, model(x).argmax(1)), advreg.ThreatModel(norm, 0.1), budget=TINY)  # type: ignore[arg-type]
    assert found.verdict != "UNRELIABLE", [check for check in found.checks if check.remedy]


def test_a_network_that_is_always_wrong(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    x, _ = digits(50)
    found = diagnose(model, (x, (model(x).argmax(1) + 1) % 10), THREAT, budget=TINY, out=tmp_path)
    assert found.robust_accuracy == 0.0
    assert {check.name for check in found.checks if check.remedy} == {"chance"}, "below the largest class: wrong labels"
    assert found.check("copies").verdict == found.check("noisy-landscape").verdict == "skipped"


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("not today")


def test_diagnose_rejects_models_that_raise() -> None:
    with pytest.raises(ModelError, match="not today"):
        diagnose(Failing().eval(), digits(8), THREAT)


def test_diagnose_rejects_data_that_do_not_fit() -> None:
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
def test_diagnose_rejects_radii_in_one_line(norm: advreg.threat.Norm, eps: float | Tensor, said: str) -> None:
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


def of(measured: float) -> Callable[[object], Check]:
    def unlucky(context: object) -> Check:
        return grade_check("unlucky", "A", "random", "", measured=measured, threshold=0.1)

    return unlucky


def raising(cause: Exception) -> Callable[[object], Check]:
    def unlucky(context: object) -> Check:
        raise cause

    return unlucky


@pytest.mark.parametrize(
    ("question", "said"), [(raising(ValueError("seven years")), "ValueError: seven years"), (of(math.nan), "nan")]
)
def test_a_check_that_raises_makes_the_figure_suspect(
    question: Callable[[object], Check], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("advreg.diagnosis.diagnose")
    monkeypatch.setattr(module, "CHECKS", {**module.CHECKS, "A": (*module.CHECKS["A"], question)})
    found = diagnose(planted.plain(), digits(), THREAT, budget=TINY)
    assert found.verdict == "SUSPECT"
    assert found.causes == ("unanswered question",)
    assert found.check("unlucky").verdict == "suspect"
    assert said in found.check("unlucky").says
    with pytest.raises(KeyError, match="no check 'luck'"):
        found.check("luck")


@pytest.mark.parametrize("cause", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_out_of_memory_is_no_finding(cause: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("advreg.diagnosis.diagnose"), "CHECKS", {"A": (raising(cause),)})
    with pytest.raises(ModelError, match=r"does not fit into memory.*fewer examples"):
        diagnose(planted.plain(), digits(8), THREAT, budget=TINY)


class Hungry(nn.Module):
    """The plain network on a device with room for some images and their gradients."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.net, self.room = planted.plain(), room

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room and x.requires_grad:
            raise torch.OutOfMemoryError("CUDA out of memory")
        answer: Tensor = self.net(x)
        return answer


def test_a_batch_that_does_not_fit_is_halved() -> None:
    data, near = digits(), advreg.ThreatModel("linf", 0.05)
    found, ample = (diagnose(model, data, near, budget=TINY) for model in (Hungry(16).eval(), planted.plain()))
    assert found.robust_accuracy == ample.robust_accuracy < found.clean_accuracy
    assert "unanswered question" not in found.causes


def test_diagnose_raises_if_one_example_does_not_fit() -> None:
    with pytest.raises(ModelError, match="does not fit into memory"):
        diagnose(Hungry(0).eval(), digits(8), THREAT, budget=TINY)


class Picky(nn.Module):
    """Refuses what no camera makes, and so every attack."""

    def __init__(self) -> None:
        super().__init__()
        self.net = planted.plain()

    def forward(self, x: Tensor) -> Tensor:
        if bool(((x * 255 - (x * 255).round()).abs() > 1e-3).any()):
            raise ValueError("not an 8-bit image")
        answer: Tensor = self.net(x)
        return answer


def test_a_figure_that_nothing_attacked_is_unreliable(tmp_path: Path) -> None:
    found = diagnose(Picky().eval(), digits(), THREAT, budget=TINY, out=tmp_path)
    assert found.verdict == "UNRELIABLE"
    assert found.check("attacked").verdict == "fail"
    assert "not an 8-bit image" in found.check("attacked").says
    assert found.check("loss-scale").verdict == "suspect"
    assert found.causes[0] == "unanswered question"


class Singular(nn.Module):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.net = planted.plain()

    def __deepcopy__(self, memo: object) -> Singular:
        raise TypeError("there is only one")

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.net(x)
        return answer


def test_copies_is_skipped_without_a_copy() -> None:
    found = diagnose(Singular().eval(), digits(), THREAT, budget=TINY)
    assert found.verdict == "TRUSTED", [check for check in found.checks if check.remedy]
    assert found.check("copies").verdict == "skipped"
    assert "no copy of this model" in found.check("copies").says

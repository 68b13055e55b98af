"""A planted mask is always detected and its cause named; an honest network is never UNRELIABLE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import advreg
from advreg.diagnosis import diagnose

from . import planted
from .conftest import TINY, Diagnose, digits

LONG = {
    "random resize and padding", "random noise", "JPEG-like preprocessing", "sign activations",
    "FGSM-trained, collapsed", "defensive distillation", "PGD-trained",
}  # fmt: skip


def cases(which: list[planted.Case]) -> list[object]:
    """All of them; what has to be trained for one case alone is slow."""
    return [pytest.param(c.name, id=c.name, marks=[pytest.mark.slow] if c.name in LONG else []) for c in which]


@pytest.mark.parametrize("name", cases(planted.PLANTED))
def test_a_planted_case_is_caught_and_its_cause_named(name: str, diagnosed: Diagnose) -> None:
    found = diagnosed(name)
    assert found.verdict != "TRUSTED"
    assert found.causes[0] in planted.named(name).causes, found.causes
    blamed = [check for check in found.checks if check.cause == found.causes[0] and check.remedy]
    assert blamed
    assert all(check.link == f"docs/diagnose.md#{check.name}" for check in blamed)


@pytest.mark.parametrize("name", cases(planted.HONEST))
def test_an_honest_network_is_trusted(name: str, diagnosed: Diagnose) -> None:
    found = diagnosed(name)
    assert found.verdict == "TRUSTED", [check for check in found.checks if check.verdict in ("suspect", "fail")]
    assert found.causes == ()


def test_zero_robustness_of_a_plain_network_is_trusted(diagnosed: Diagnose) -> None:
    assert diagnosed("plain").robust_accuracy == 0.0


@pytest.mark.parametrize("name", cases([c for c in planted.PLANTED if c.causes != ("random",)]))
def test_adaptive_attacks_remove_the_mask_within_two_points(name: str, diagnosed: Diagnose) -> None:
    case, found = planted.named(name), diagnosed(name)
    assert found.adapted is not None
    bare = diagnosed("plain").robust_accuracy if case.bare is planted.plain else _straight(case)
    assert found.adapted.robust_accuracy <= bare + 0.02
    assert found.adapted.robust_accuracy <= found.robust_accuracy
    if found.adapted.robust_accuracy < found.robust_accuracy:
        assert found.adapted.means in {attempt.means for attempt in found.adapted.attempts}


def _straight(case: planted.Case) -> float:
    """What the same weights are worth to an attack on their margins: distilled and collapsed networks have a gradient."""
    if case.bare is planted.signed:
        return 0.0
    x, y = digits()
    return advreg.attacks.auto_pgd(case.bare(), x, y, case.threat, objective=advreg.objectives.margin).robust_accuracy


@pytest.mark.parametrize(
    ("file", "name", "eps"),
    [
        ("mnist_wk17a_linf0.1.pth", "zoo:mnist-small", 0.1),
        pytest.param("mnist_trades_smallcnn.pt", "zoo:mnist-trades", 0.3, marks=pytest.mark.slow),
    ],
)
def test_published_networks_are_never_unreliable(shared: Path, file: str, name: str, eps: float) -> None:
    model = advreg.load_model(name, weights=shared / "checkpoints" / file)
    found = diagnose(model, digits(), advreg.ThreatModel("linf", eps), budget=TINY)
    assert found.verdict != "UNRELIABLE", [check for check in found.checks if check.verdict == "fail"]
    if eps == 0.1:
        assert found.verdict == "TRUSTED"


def test_the_same_diagnosis_twice(diagnosed: Diagnose) -> None:
    case = planted.named("softmax inside")
    again = diagnose(case.make(), digits(), case.threat, budget=TINY)
    before = {check.name: check for check in diagnosed(case.name).checks}
    assert all(before[check.name] == check for check in again.checks)


def test_randomness_is_seen_without_any_attack() -> None:
    torch.manual_seed(0)
    found = diagnose(planted.named("random noise").make(), digits(16), planted.NARROW, budget=TINY)
    assert found.verdict != "TRUSTED"
    assert found.causes[0] == "random"
    assert found.check("slope").verdict == "skipped"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [c.name for c in planted.PLANTED if c.causes == ("random",)])
def test_a_figure_of_random_verdicts_is_unreliable(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    case = planted.named(name)
    found = diagnose(case.make(), digits(100), case.threat, budget=replace(TINY, probes=48))
    assert found.check("verdict-randomness").verdict == "fail"
    assert found.verdict == "UNRELIABLE"


@pytest.mark.slow
def test_random_models_are_verified_on_mean_outputs(diagnosed: Diagnose) -> None:
    found = diagnosed("random noise")
    assert found.adapted is not None
    samples = [a.means for a in found.adapted.attempts if a.means.startswith("EOT, ")]
    assert len(samples) == 1
    assert 2 <= int(samples[0].split()[1]) <= 64
    assert found.check("randomness").verdict == "suspect"

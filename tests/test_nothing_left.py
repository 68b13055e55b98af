"""Where nothing is left to attack, every public function returns figures of 0 instead of failing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import advreg
from advreg import ThreatModel, attacks
from advreg.evaluation import PROTOCOLS

NORMS = ("linf", "l2", "l1")
SMALL: dict[str, dict[str, int]] = {"square": {"queries": 20}, "hopskipjump": {"queries": 50}, "spsa": {"steps": 2}}
ONLY = {"ddn": ("l2",), "carlini_wagner": ("l2",), "spsa": ("linf",), "hopskipjump": ("linf", "l2")}
ATTACKS = (
    "fgsm", "pgd", "mifgsm", "nifgsm", "cosine_pgd", "shrinking_pgd", "apgd", "apgd_targeted", "fab", "fmn", "ddn",
    "deepfool", "carlini_wagner", "square", "random_search", "spsa", "hopskipjump",
)  # fmt: skip


@pytest.fixture
def lost() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a network and examples that it gets wrong, every one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    x = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return net, x, (net(x).argmax(1) + 1) % 4


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_leave_clean_errors_where_they_are(lost: Any, name: str) -> None:
    net, x, y = lost
    for norm in ONLY.get(name, NORMS):
        found = getattr(attacks, name)(net, x, y, ThreatModel(norm, 0.1), **SMALL.get(name, {}))
        assert bool(found.broken.all())
        assert torch.equal(found.x_adv, x)
        assert found.backwards == 0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_protocols_end_at_zero(lost: Any, name: str, norm: str) -> None:
    net, x, y = lost
    found = advreg.evaluate(net, (x, y), threat=ThreatModel(norm, 0.1), protocol=name)
    assert (found.clean_accuracy, found.robust_accuracy) == (0.0, 0.0)
    assert found.verdict != "TRUSTED"


@pytest.mark.parametrize("norm", NORMS)
def test_curves_and_distances_end_at_zero(lost: Any, norm: str) -> None:
    net, x, y = lost
    curve = advreg.robustness_curve(net, (x, y), norm=norm, eps=[0, 0.1, 0.5])
    assert [point.robust_accuracy for point in curve.points] == [0.0, 0.0, 0.0]
    norms = advreg.minimum_norms(net, (x, y), norm=norm)
    assert norms.median == 0.0
    assert norms.curve().points[0].robust_accuracy == 0.0


@pytest.mark.parametrize("norm", NORMS)
def test_diagnosis_of_nothing_is_no_trust(lost: Any, norm: str) -> None:
    net, x, y = lost
    found = advreg.diagnose(net, (x, y), ThreatModel(norm, 0.1), quick=True)
    assert found.robust_accuracy == 0.0
    assert found.verdict != "TRUSTED"


def test_survivors_that_end_within_a_protocol_leave_later_attacks_idle() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    x = torch.rand(20, 1, 4, 4)
    found = advreg.evaluate(net, (x, net(x).argmax(1)), threat=ThreatModel("linf", 0.9), protocol="strong")
    assert found.robust_accuracy == 0.0
    assert [attack.tried for attack in found.by_attack[1:]] == [0] * (len(found.by_attack) - 1)


def test_an_empty_batch_is_one_line() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    for name in ATTACKS:
        norm = ONLY.get(name, NORMS)[-1]
        with pytest.raises(advreg.errors.DataError, match="at least one example"):
            getattr(attacks, name)(
                net, torch.rand(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64), ThreatModel(norm, 0.1)
            )

"""Evaluations of threats with units and rules of features: attacks, ids, ledger and report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advreg import ThreatModel, diagnose, evaluate
from advreg.constraints import FeatureRules
from advreg.errors import ConfigError
from advreg.evaluation import resolve
from tests.constraints.loans import HIGH, LOW, loan_threat, loans, violations


class Scorer(nn.Module):
    """Two classes by a small network on scaled columns."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 2))
        with torch.no_grad():  # the boundary runs through the middle of the rows
            z = self.forward(loans(200))
            self.net[2].bias[0] += (z[:, 1] - z[:, 0]).median()
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        return self.net((rows - LOW) / (HIGH - LOW))


def test_an_evaluation_runs_capgd_then_mutate_inside_the_rules(tmp_path: Path) -> None:
    model, x = Scorer(), loans(40)
    threat, y = loan_threat("l2", 1.5), model(x).argmax(1)
    found = evaluate(model, (x, y), threat, out=tmp_path)
    assert [attack.name for attack in found.by_attack] == ["capgd", "mutate"]
    assert found.protocol == f"l2-1.5-box-0-100000{threat.suffix}-quick@2"
    assert 0 < int(found.broken.sum()) < 40
    folder = tmp_path / "evaluation" / found.protocol
    record = json.loads((folder / "results.json").read_text())
    assert record["threat"]["features"] == threat.suffix.lstrip("-")
    points = load_points(folder)
    assert not violations(points, x, "l2", 1.5).any()
    again = evaluate(model, (x, y), threat, out=tmp_path)
    assert torch.equal(again.broken, found.broken)


def load_points(folder: Path) -> Tensor:
    """Return the adversarial rows of an evaluation."""
    from safetensors.torch import load_file

    stored = load_file(folder / "examples.safetensors")
    return next(value for name, value in stored.items() if "adv" in name and value.ndim == 2)


def test_figures_compare_only_under_equal_rules() -> None:
    plain = ThreatModel("linf", 0.3)
    protocol = resolve("quick", "linf")
    ids = {protocol.id(plain), protocol.id(loan_threat("linf", 0.3))}
    ids |= {protocol.id(ThreatModel("linf", 0.3, rules=FeatureRules(integer=(0,))))}
    ids |= {protocol.id(ThreatModel("linf", 0.3, scale=[1.0, 0.0]))}
    assert len(ids) == 4
    assert protocol.id(plain) == "linf-0.3-quick@2"


def test_strong_searches_longer_and_faithful_protocols_raise() -> None:
    strong = resolve("strong", "linf", limited=True)
    assert strong.stages[1].attack.keywords == {"queries": 2000}
    with pytest.raises(ConfigError, match="knows no scale or rules"):
        resolve("labels", "linf", limited=True)


def test_a_diagnosis_skips_what_limits_forbid_and_runs_the_rest() -> None:
    model, x = Scorer(), loans(24)
    found = diagnose(model, (x, model(x).argmax(1)), loan_threat("l2", 0.5))
    verdicts = {check.name: check.verdict for check in found.checks}
    assert {verdicts[name] for name in ("hard-label", "unbounded", "noisy-landscape")} == {"skipped"}
    assert verdicts["black-box"] in ("pass", "suspect")
    assert not [check.name for check in found.checks if "stopped the check" in check.remedy]

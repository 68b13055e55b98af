"""Which eps: distances by brute force, the rule by hand-made rows, the verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import advreg
from advreg.cli.app import app
from advreg.diagnosis import EpsilonRow, choose_epsilon
from advreg.diagnosis.epsilon import nearest_other_class, recommend
from advreg.errors import ThreatError

from . import planted
from .conftest import digits


@pytest.mark.parametrize(("norm", "order"), [("linf", float("inf")), ("l2", 2), ("l1", 1)])
def test_the_nearest_of_another_class_by_brute_force(norm: str, order: float) -> None:
    torch.manual_seed(0)
    x, others = torch.rand(40, 1, 3, 3), torch.rand(50, 1, 3, 3)
    y, labels = torch.randint(3, (40,)), torch.randint(3, (50,))
    found = nearest_other_class(x, y, others, labels, norm)
    for i in range(40):
        far = [float((x[i] - o).flatten().norm(p=order)) for o, c in zip(others, labels, strict=True) if c != y[i]]
        assert float(found[i]) == pytest.approx(min(far), rel=1e-5)
    assert bool(nearest_other_class(x, y * 0, others, labels * 0, norm).isinf().all())


def of(eps: float, ssim: float | None, ambiguous: float) -> EpsilonRow:
    return EpsilonRow(eps, 0.5, (0.4, 0.6), eps, eps, ssim, ambiguous)


@pytest.mark.parametrize(
    ("rows", "eps", "words"),
    [
        ([of(0.1, 0.99, 0), of(0.2, 0.93, 0), of(0.3, 0.7, 0)], 0.2, "hard to see"),
        ([of(0.1, 0.99, 0), of(0.2, 0.97, 0.2), of(0.3, 0.95, 0.5)], 0.1, "another class"),
        ([of(0.1, 0.5, 0), of(0.2, 0.4, 0)], 0.1, "go lower"),
        ([of(0.1, 0.99, 0.5)], 0.1, "go lower"),
        ([of(0.1, None, 0), of(0.2, None, 0.005)], 0.2, "another class"),
    ],
)
def test_recommended_eps_is_the_largest_unnoticed_one(rows: list[EpsilonRow], eps: float, words: str) -> None:
    found, why = recommend(rows)
    assert found == eps
    assert words in why


def test_the_grid_on_digits(tmp_path: Path) -> None:
    x, y = digits(40)
    choice = choose_epsilon(planted.plain(), (x, y), eps=[0.3, 0.01, 0.1], train=planted.mnist()[0], out=tmp_path)
    assert [row.eps for row in choice.rows] == [0.01, 0.1, 0.3]
    accuracy = [row.robust_accuracy for row in choice.rows]
    assert accuracy == sorted(accuracy, reverse=True)
    alike = [row.ssim for row in choice.rows]
    assert alike == sorted(alike, reverse=True)
    assert [row.linf for row in choice.rows] == pytest.approx([0.01, 0.1, 0.3], rel=1e-3)
    assert choice.recommended == 0.01
    assert json.loads((tmp_path / "epsilon.json").read_text())["recommended"] == 0.01
    stored = load_file(tmp_path / "epsilon.safetensors")
    assert stored["attacked"].shape == (3, 8, 1, 28, 28)
    assert float((stored["attacked"][2] - stored["clean"]).abs().max()) <= 0.3 + 1e-6


def test_choose_epsilon_rejects_invalid_grids() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    for eps in ([], [0.0, 0.1], [2.0]):
        with pytest.raises(ThreatError):
            choose_epsilon(net, digits(8), eps=eps)


def test_the_verb(tmp_path: Path) -> None:
    given = ["epsilon", "zoo:mnist-small", "--data", "mnist", "--eps", "2/255,0.1", "-n", "12"]
    done = CliRunner().invoke(app, [*given, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "start at eps" in done.stdout
    assert (tmp_path / "epsilon.png").is_file()
    table = json.loads(CliRunner().invoke(app, [*given, "--json"]).stdout)
    assert len(table["rows"]) == 2
    assert advreg.choose_epsilon is choose_epsilon

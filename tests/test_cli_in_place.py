"""A network that writes into its input has the figures of the same function out of place on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from advreg.cli.app import app

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, in_place):
        super().__init__()
        torch.manual_seed(0)
        self.in_place = in_place
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x):
        return self.layers((x.sub_(0.5).mul_(4) if self.in_place else (x - 0.5) * 4).mean(1))

def outside(): return Net(False).eval()
def inside(): return Net(True).eval()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "written_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("written_nets", None)
    return tmp_path


def run_json(*arguments: str) -> dict:
    found = CliRunner().invoke(app, [*arguments, "--json"])
    if found.exception is not None:
        raise found.exception
    return json.loads(found.stdout)


def pair(*arguments: str) -> list[dict]:
    """Return the output of a command for the two networks, without times."""
    records = [run_json(arguments[0], f"written_nets:{name}", *arguments[1:]) for name in ("outside", "inside")]
    return [{key: value for key, value in record.items() if "second" not in key} for record in records]


@pytest.mark.parametrize("protocol", ["quick", "blackbox"])
def test_evaluate_is_equal_in_place_and_out_of_place(here: Path, protocol: str) -> None:
    options = ["--data", "mnist", "--threat", "linf:0.1", "--protocol", protocol, "-n", "24", "--curve", "0.05"]
    first, second = pair("evaluate", *options)
    assert first["clean_accuracy"] > 0
    for key in ("clean_accuracy", "robust_accuracy", "interval", "forwards", "backwards", "flags"):
        assert first[key] == second[key]
    accuracies = [[point["robust_accuracy"] for point in record["curve"]["points"]] for record in (first, second)]
    assert accuracies[0] == accuracies[1]


def test_attack_is_equal_in_place_and_out_of_place(here: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)).save(here / "seven.png")
    files = []
    for name in ("outside", "inside"):
        found = run_json("attack", "seven.png", "--model", f"written_nets:{name}", "--size", "28", "--out", name)
        files.append([path.read_bytes() for path in sorted((here / name).glob("*.png"))])
        assert found
    assert files[0] == files[1]
    assert files[0]

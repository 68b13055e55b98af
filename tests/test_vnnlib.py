"""VNN-LIB properties: read by an evaluator of their own grammar, they hold at a point exactly if it is a counterexample."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg.errors import DataError, ThreatError
from advreg.export import read_verdicts, vnnlib_files, vnnlib_property

TOKEN = re.compile(r"[()]|[^\s()]+")


def parse(text: str) -> list[object]:
    """Return the nested lists of a text of S-expressions."""
    stack: list[list[object]] = [[]]
    for token in TOKEN.findall(text):
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    return stack[0]


def holds(text: str, x: Tensor, z: Tensor) -> bool:
    """Return whether every assertion holds at an input with these logits."""
    names = {f"X_{i}": v for i, v in enumerate(x.flatten().tolist())} | {f"Y_{j}": v for j, v in enumerate(z.tolist())}

    def value(of: object) -> float:
        return names[of] if of in names else float(str(of))

    def true(of: list[object]) -> bool:
        if of[0] == "or":
            return any(true(part) for part in of[1:])
        if of[0] == "and":
            return all(true(part) for part in of[1:])
        least, most = value(of[1]), value(of[2])
        return least >= most if of[0] == ">=" else least <= most

    return all(true(each[1]) for each in parse(text) if each[0] == "assert")


def test_property_holds_exactly_at_counterexamples() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(1, 1, 2, 2)
    low, high = advreg.ThreatModel("linf", 0.3).interval(x)
    with torch.no_grad():
        label = int(net(x).argmax())
        text, seen = vnnlib_property(low[0], high[0], label, 3), set()
        for point in x + (torch.rand(400, 1, 2, 2) - 0.5):
            z = net(point[None])[0]
            valid = bool(((point >= low[0]) & (point <= high[0])).all())
            wrong = bool((z[[j for j in range(3) if j != label]] >= z[label]).any())
            assert holds(text, point, z) == (valid and wrong)
            seen.add((valid, wrong))
    assert len(seen) >= 3


def test_small_numbers_have_no_exponent_and_are_exact() -> None:
    text = vnnlib_property(torch.tensor([1e-7]), torch.tensor([1.0]), 0, 2)
    number = re.search(r">= X_0 ([^)]+)", text)
    assert number is not None
    assert "e" not in number[1]
    assert float(number[1]) == float(torch.tensor(1e-7))


def test_files_are_an_instance_list_with_the_model(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval(), torch.rand(3, 1, 2, 2)
    paths = vnnlib_files(net, x, torch.tensor([0, 1, 0]), "linf:0.1", tmp_path)
    listed = (tmp_path / "instances.csv").read_text().split()
    assert listed == [f"model.onnx,{path.name},300" for path in paths]
    assert (tmp_path / "model.onnx").stat().st_size > 100


def test_what_the_format_cannot_say_is_rejected(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval(), torch.rand(1, 1, 2, 2)
    with pytest.raises(ThreatError, match="the norm is l2"):
        vnnlib_files(net, x, torch.tensor([0]), "l2:0.1", tmp_path)
    with pytest.raises(DataError, match="2 classes"):
        vnnlib_files(net, x, torch.tensor([2]), "linf:0.1", tmp_path)


def test_verdicts_are_read_by_example() -> None:
    lines = [
        "m,model.onnx,props/example-00001.vnnlib,0,sat,1",
        "m,example-00002.vnnlib,unsat",
        "m,example-00003.vnnlib,timeout",
        "",
    ]
    assert read_verdicts(lines) == {1: "broken", 2: "proved", 3: "open"}
    with pytest.raises(DataError, match="no property"):
        read_verdicts(["nothing"])

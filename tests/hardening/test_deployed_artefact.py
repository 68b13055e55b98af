"""The gate of a deployed artefact: planted losses of five points are refused at 500 examples, faithful files pass.

The model is linear, so an example is robust in linf exactly where its margin is above eps times the l1 norm of the weights.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import advreg
from advreg.cli.app import app
from advreg.errors import AdvregError, ModelError
from advreg.export import torch_file
from advreg.hardening import deployed_artefact
from advreg.hardening.deployed_artefact import gate_artefact, has_gradients, load_artefact
from advreg.runs import RunFolder
from advreg.runs.weights import serialise

N = 500
EPS = 0.05
GENERATOR = torch.Generator().manual_seed(0)
W = torch.randint(3, 9, (16,), generator=GENERATOR) * torch.tensor([1.0, -1.0] * 8) / 8
REACH = EPS * float(W.abs().sum())
"""Margin that the adversary can take away."""


class Linear(nn.Module):
    """Logits (-s, s) with s = w (x - 1/2) + bias."""

    def __init__(self, w: Tensor = W, bias: float = 0.0) -> None:
        super().__init__()
        self.w, self.bias = nn.Parameter(w.clone()), bias

    def forward(self, x: Tensor) -> Tensor:
        s = (x.flatten(1) - 0.5) @ self.w + self.bias
        return torch.stack([-s, s], 1)


class Int8(Linear):
    """The same in int8: weights and inputs are quantised, so no gradient reaches the input."""

    def forward(self, x: Tensor) -> Tensor:
        ops = torch.ops.quantized_decomposed
        for_x, for_w = (1 / 255, 0, 0, 255, torch.uint8), (1 / 127, 0, -127, 127, torch.int8)
        x = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *for_x), *for_x)
        w = ops.dequantize_per_tensor(ops.quantize_per_tensor(self.w, *for_w), *for_w)
        s = (x.flatten(1) - 0.5) @ w + self.bias
        return torch.stack([-s, s], 1)


def examples(near: float) -> tuple[Tensor, Tensor]:
    """500 points whose margins are 2.5 reaches, but half a reach for 50 of them and `near` reaches for 25 of class 0."""
    y = torch.arange(N) % 2
    margin = torch.full((N,), 2.5)
    margin[:50], margin[100:150:2] = 0.5, near
    signed = margin * REACH * (2 * y - 1)
    return (0.5 + signed[:, None] * W / W.square().sum()).reshape(N, 1, 4, 4), y


ROBUST_LOSS = examples(1.2), 0.4 * REACH  # data, and the bias that takes five points of robust accuracy
CLEAN_LOSS = examples(0.2), 0.4 * REACH


@pytest.fixture(autouse=True)
def _few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployed_artefact, "_QUERIES", 40)  # the points of a linear model need none


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Export a model once for each kind and bias; return its file."""
    import torch.ao.quantization.fx._decomposed  # noqa: F401  (registers the operations)

    @functools.cache
    def export(kind: type[Linear], bias: float = 0.0) -> str:
        return str(torch_file(kind(bias=bias).eval(), (1, 4, 4), tmp_path_factory.mktemp("files") / "model.pt2"))

    return export


def decide(data: tuple[Tensor, Tensor], artefact: str | nn.Module, **options: object) -> advreg.Decision:
    return gate_artefact(Linear().eval(), artefact, data, f"linf:{EPS}", protocol="fgsm", **options)


@pytest.mark.parametrize("kind", [Linear, Int8])
def test_faithful_export_passes(kind: type[Linear], file_of: Callable[..., str]) -> None:
    decision = decide(ROBUST_LOSS[0], file_of(kind))
    assert decision.verdict == "PROMOTE"
    for side in (decision.champion, decision.challenger):
        assert (side["clean_accuracy"], side["robust_accuracy"]) == (1.0, 0.9)  # the closed form


@pytest.mark.parametrize("kind", [Linear, Int8])
def test_planted_loss_of_five_points_is_refused(kind: type[Linear], file_of: Callable[..., str]) -> None:
    (data, bias), (other, _) = ROBUST_LOSS, CLEAN_LOSS
    decision = decide(data, file_of(kind, bias))
    assert decision.verdict == "REFUSED"
    assert [(test.passed, test.estimate) for test in decision.tests] == [(True, 0.0), (False, pytest.approx(-0.05))]
    decision = decide(other, file_of(kind, bias))
    assert [(test.passed, test.estimate) for test in decision.tests] == [(False, pytest.approx(-0.05)), (True, 0.0)]


def test_int8_has_no_gradients_and_is_attacked_all_the_same(file_of: Callable[..., str]) -> None:
    (x, y), bias = ROBUST_LOSS
    model = load_artefact(file_of(Int8, bias))
    assert not has_gradients(model, x[:8], y[:8])
    assert decide((x, y), model).challenger["robust_accuracy"] == pytest.approx(0.85)


class Masked(Linear):
    """The same on rounded inputs: the gradient is zero, so gradient attacks find nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.round(decimals=3))


def test_points_of_the_artefact_break_the_trained_model(tmp_path: Path) -> None:
    (data, _), masked, out = ROBUST_LOSS, Masked().eval(), tmp_path / "gate"
    decision = gate_artefact(masked, Linear().eval(), data, f"linf:{EPS}", protocol="fgsm", out=out)
    assert decision.champion["robust_accuracy"] == 0.9
    header, *rows = (json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines())
    assert header["n"] == len(rows) == N
    assert sum(row["trained_broken_by_own"] for row in rows) == 0
    assert sum(row["trained_broken_by_other"] for row in rows) == 50
    assert json.loads((out / "decision.json").read_text())["sha256"] == decision.sha256


def test_verb_refuses_a_planted_loss_and_passes_a_faithful_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_of: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (x, y), bias = ROBUST_LOSS
    np.savez("data.npz", x=x, y=y, x_test=x, y_test=y)
    run = RunFolder.create("run")
    run.write("run.toml", f'[data]\nname = "npz:data.npz"\n[threat]\neps = {EPS}\n')
    run.write_json("model.json", {"name": f"{__name__}:Linear", "options": {}})
    run.write("model.safetensors", serialise(Linear().state_dict()))
    status = {}
    for planted in (0.0, bias):
        options = ["--artefact", file_of(Linear, planted), "--protocol", "fgsm", "--trust-code"]
        done = CliRunner().invoke(app, ["gate", "run", *options], catch_exceptions=False)
        status[planted] = done.exit_code
    assert status == {0.0: 0, bias: 1}
    assert "NO  robust accuracy, not worse: 0 of 500 newly right, 25 newly wrong" in done.output
    assert (run / "artefacts/model.pt2/decision.json").is_file()
    with pytest.raises(AdvregError, match="--artefact FILE"):
        CliRunner().invoke(app, ["gate", "run"], catch_exceptions=False)


def test_few_examples_are_underpowered() -> None:
    x, y = ROBUST_LOSS[0]
    assert decide((x[:60], y[:60]), Linear().eval(), n=None).verdict == "UNDERPOWERED"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("net.pte", "is an ExecuTorch program"),
        ("nowhere.pt2", "nowhere.pt2 is no file"),
        ("damaged.pt2", "cannot be read as a torch.export program"),
        ("pickled.pt2", "cannot be read as a torch.export program"),
        ("nets.txt", "unknown model"),
    ],
)
def test_wrong_artefacts_are_one_line(name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("damaged.pt2").write_bytes(b"PK\x03\x04 and no more")
    torch.save(nn.Linear(2, 2), "pickled.pt2")
    with pytest.raises(AdvregError, match=says) as found:
        load_artefact(name)
    assert "\n" not in str(found.value)


def test_other_outputs_are_an_error() -> None:
    with pytest.raises(ModelError):
        decide(ROBUST_LOSS[0], nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).eval())


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_onnx_and_its_int8_pass_and_a_planted_loss_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    quantization = pytest.importorskip("onnxruntime.quantization")
    from advreg.export import onnx_file

    data, bias = ROBUST_LOSS
    for model, verdict in ((Linear(), "PROMOTE"), (Linear(bias=bias), "REFUSED")):
        file, int8 = tmp_path / f"{verdict}.onnx", tmp_path / f"{verdict}-int8.onnx"
        onnx_file(model.eval(), (1, 4, 4), file)
        quantization.quantize_dynamic(file, int8)
        assert [decide(data, str(each)).verdict for each in (file, int8)] == [verdict, verdict]

"""`report` with thresholds, `export` and `doctor`: status, files, equal logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from advreg import export, models
from advreg.cli import doctor
from advreg.cli.app import app
from advreg.errors import ConfigError, ModelError
from advreg.models import load
from advreg.runs import RunFolder

from .report.fake_run import results, write_evaluation


def invoke(*arguments: object) -> tuple[int, str]:
    found = CliRunner().invoke(app, [str(word) for word in arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.stdout


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    write_evaluation(tmp_path / "net", results("linf-0.1-quick@2", "linf", 0.1, 0.5), shown=0)
    return tmp_path / "net"


def test_figure_below_threshold_is_status_one(measured: Path, tmp_path: Path) -> None:
    files = ("--junit", tmp_path / "j.xml", "--model-card", tmp_path / "card.md")
    assert invoke("report", measured, *files, "--fail-under", "robust=0.45")[0] == 0
    status, output = invoke("report", measured, *files, "--fail-under", "robust=0.55", "--json")
    assert status == 1
    report = json.loads(output)
    assert "below 0.55" in report["cases"][0]["problem"]
    assert all(Path(path).is_file() for path in report["files"].values())
    assert 'failures="1"' in (tmp_path / "j.xml").read_text()


def test_unreliable_figure_is_status_one(measured: Path) -> None:
    diagnosis = {"schema": "advreg/diagnosis@1", "verdict": "UNRELIABLE", "claim": "linf-0.1-quick@2", "n": 10}
    (measured / "diagnosis.json").write_text(json.dumps(diagnosis | {"robust_accuracy": 0.5}))
    status, output = invoke("report", measured, "--fail-under", "robust=0.1", "--json")
    assert status == 1
    assert "UNRELIABLE" in json.loads(output)["cases"][0]["problem"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a network that was not trained."""
    folder = RunFolder.create(tmp_path_factory.mktemp("export") / "run")
    net = load("zoo:mnist-small")
    spec = {"schema": "advreg/model@1", **net.advreg_spec, "classes": list("0123456789"), "shape": [1, 28, 28]}
    folder.write_json("model.json", spec)
    folder.save_model(net)
    return folder.path


def test_exported_program_has_equal_logits_for_any_batch(run: Path, tmp_path: Path) -> None:
    status, output = invoke("export", run, "--torch", tmp_path / "m.pt2", "--json")
    assert status == 0
    x = torch.rand(5, 1, 28, 28)
    again = torch.export.load(json.loads(output)["files"]["torch"]).module()
    assert torch.allclose(again(x), load(str(run))(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_file_has_equal_logits_for_any_batch(run: Path, tmp_path: Path) -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library, reason="the extra onnx is missing: pip install 'advreg[onnx]'")
    assert invoke("export", run, "--onnx", tmp_path / "m.onnx")[0] == 0
    x = torch.rand(5, 1, 28, 28)
    assert torch.allclose(load(f"onnx:{tmp_path / 'm.onnx'}")(x), load(str(run))(x), atol=1e-4)


def test_export_without_a_writable_file_is_rejected(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--onnx FILE"):
        invoke("export", run)
    with pytest.raises(ModelError, match="cannot"):
        invoke("export", run, "--torch", tmp_path / "none" / "m.pt2")


def test_file_with_other_logits_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "torch.export.load", lambda path: type("Other", (), {"module": lambda self: lambda x: torch.ones(2, 10)})()
    )
    with pytest.raises(ModelError, match="other logits"):
        export.torch_file(models.load("zoo:mnist-dnn"), (1, 28, 28), tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_doctor_shows_extras_devices_and_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = [
        "torch>=2.6",
        "nothing-of-the-kind>=3; extra == 'onnx'",
        "numpy; extra == 'onnx'",
        "ruff; extra == 'dev'",
    ]
    monkeypatch.setattr("advreg.cli.doctor.requires", lambda name: requirements)
    found = json.loads(invoke("doctor", "--json")[1])
    assert list(found) == ["environment", "devices", "extras", "speed"]
    assert found["environment"]["torch"] == torch.__version__
    assert found["devices"]["auto is"] in found["devices"]
    assert all("images a second" in text for text in found["speed"].values())
    assert list(found["extras"]) == ["onnx"]
    assert found["extras"]["onnx"].startswith("nothing-of-the-kind missing, numpy ")
    assert found["extras"]["onnx"].endswith(": pip install 'advreg[onnx]'")


def test_doctor_estimates_a_training_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(
        '[model]\nname = "zoo:mnist-dnn"\n[data]\nvalidation = 59500\n[train]\nepochs = 3\nbatch_size = 50\n'
    )
    estimate = doctor.estimate(Path("run.toml"))
    assert estimate["steps an epoch"] == 10
    assert estimate["seconds"] > 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.toml"]

"""`advreg init`: its file loads, has comments and overwrites no other; help needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from PIL import Image

from advreg.cli.app import app
from advreg.cli.init import run_init
from advreg.config import Config, toml
from advreg.errors import AdvregError, DataError, RunError, ThreatError
from advreg.models import load


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for k in range(24):
        folder = tmp_path / "photos" / ("cat", "dog", "pig")[k % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / f"{k}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("data", "threat", "model", "eps"),
    [
        ("mnist", None, None, 0.1),
        ("cifar10", None, None, 8 / 255),
        ("npz:a.npz", "l2:0.5", "timm:resnet18", 0.5),
        ("npz:a.npz", "linf:8@0,255", "nets:make", 8),
        ('folder of "quotes"\\', "l1:12", "nets:make", 12),
    ],
)
def test_written_configuration_holds_the_options(tmp_path, data, threat, model, eps) -> None:
    config = Config.from_dict(toml.read(run_init(tmp_path / "run.toml", data, threat, model)))
    assert config.data.name == data
    assert config.threat.eps == eps
    assert config.threat.box == ([0.0, 255.0] if threat and "@" in threat else [0.0, 1.0])
    assert model in (None, config.model.name)
    assert config.attack.name == "pgd"


def test_classes_of_a_folder_are_counted(tmp_path: Path, photos: Path) -> None:
    config = Config.load(run_init(tmp_path / "run.toml", f"folder:{photos}?size=64", None, None))
    assert config.model.options == {"classes": 3, "channels": 3}
    assert config.data.validation == 2


def test_every_section_has_a_comment(tmp_path: Path) -> None:
    lines = run_init(tmp_path / "run.toml", "mnist", None, None).read_text().splitlines()
    for section in fields(Config):
        if section.name != "seed":
            place = lines.index(f"[{section.name}]")
            assert lines[place - 1].startswith("# "), section.name


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    out = run_init(tmp_path / "run.toml", "mnist", None, None)
    before = out.read_bytes()
    with pytest.raises(RunError, match=r"run\.toml exists"):
        run_init(out, "cifar10", None, None)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("data", "threat", "kind"),
    [
        ("folder:nowhere", None, DataError),
        ("mnist", "linf", ThreatError),
        ("mnist", "linff:0.1", ThreatError),
        ("mnist", "linf:0", ThreatError),
        ("mnist", "linf:8@0", ThreatError),
        ("mnist", "linf:8@0,high", ThreatError),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(tmp_path: Path, data: str, threat: str | None, kind: type) -> None:
    with pytest.raises(kind) as caught:
        run_init(tmp_path / "run.toml", data, threat, None)
    assert isinstance(caught.value, AdvregError)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_help_and_init_work_without_torch(tmp_path: Path) -> None:
    script = """
import sys
from typer.testing import CliRunner
from advreg.cli.app import app
for verb in ([], ["attack"], ["init"], ["export"], ["report"], ["doctor"]):
    found = CliRunner().invoke(app, [*verb, "--help"], env={"NO_COLOR": "1"})
    assert found.exit_code == 0, verb
    assert chr(27) not in found.output
print(CliRunner().invoke(app, ["init", "--out", sys.argv[1], "--json"]).output)
assert "torch" not in sys.modules
"""
    out = tmp_path / "run.toml"
    found = subprocess.run([sys.executable, "-c", script, str(out)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == {
        "file": str(out),
        "data": "mnist",
        "model": "zoo:mnist-cnn",
        "threat": "linf:0.1",
    }


def test_small_network_takes_the_size_of_the_images(tmp_path: Path, photos: Path) -> None:
    config = Config.load(run_init(tmp_path / "run.toml", f"folder:{photos}?size=20", None, "zoo:mnist-small"))
    net = load(config.model.name, **config.model.options)
    assert net(torch.rand(2, 3, 20, 20)).shape == (2, 3)


def test_file_reports_class_imbalance(tmp_path: Path, photos: Path) -> None:
    for k in range(20):
        Image.new("RGB", (8, 8)).save(photos / "cat" / f"more{k}.png")
    text = run_init(tmp_path / "run.toml", f"folder:{photos}", None, None).read_text()
    assert "# classes are unequal: 28 images of cat, 8 of dog" in text
    assert Config.load(tmp_path / "run.toml").model.options["classes"] == 3


def test_init_of_own_network_names_the_flag_that_trains_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(["init", "--out", str(tmp_path / "run.toml"), "--model", "nets:make"], standalone_mode=False)
    assert capsys.readouterr().out.endswith("run.toml --trust-code\n")

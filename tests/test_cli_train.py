"""The configuration that the verb train builds from its options, without training; and the message after Ctrl-C."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import advreg.cli.train
from advreg.cli.app import app
from advreg.config import Config
from advreg.errors import ConfigError
from advreg.runs import RunFolder
from tests import processes

ROBUST = ["attack.name=pgd", "recipe.name=madry", "threat.eps=0.1", "optimizer.lr=0.1"]


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """Return a function from options of the command line to the configuration that would be trained."""
    seen: list[Config] = []
    monkeypatch.setattr(
        advreg.cli.train, "fit", lambda config, **options: seen.append(config) or RunFolder(Path(config.train.out))
    )

    def configure(*words, changes=()):
        (tmp_path / "run.toml").write_text(Config().replace_with([*ROBUST, *changes]).to_toml())
        CliRunner().invoke(app, ["train", str(tmp_path / "run.toml"), *words], catch_exceptions=False)
        return seen.pop()

    return configure


@pytest.mark.parametrize("out", ["20240131", "true", "8/255", "runs/a=b", "[1]"])
def test_output_folder_may_have_any_name(configured, out):
    assert configured("--out", out).train.out == out


def test_set_overrides_fine_tuning(configured):
    start, moving = ["--finetune", "timm:resnet18"], ["policy.name=iaat"]
    tuned = configured(*start, "--set", "policy.name=fixed", "--set", "optimizer.lr=0.03", changes=moving)
    assert (tuned.policy.name, tuned.optimizer.lr) == ("fixed", 0.03)
    assert configured(*start).policy.name == "warmup"
    with pytest.raises(ConfigError, match="give ramp = 0"):
        configured(*start, changes=moving)


def test_ratio_without_fine_tuning_is_rejected(configured):
    with pytest.raises(ConfigError, match=r"--ratio is 0\.3, which belongs to fine-tuning; add --finetune RUN"):
        configured("--ratio", "0.3")
    assert dict(configured("--ratio", "0.3", "--finetune", "timm:resnet18").recipe.options) == {"ratio": 0.3}


def test_ctrl_c_prints_how_to_continue(tmp_path):
    interrupted = """
import sys
import advreg.cli.train
from advreg.cli import main
def interrupt(options):
    raise KeyboardInterrupt
advreg.cli.train.run_train = interrupt
sys.argv = ["advreg", "train", "run.toml"]
main()
"""
    found = processes.run(code=interrupted)
    assert found.returncode == 130
    assert found.stderr.strip().startswith("advreg: interrupted; finished work is saved")
    assert found.stderr.strip().endswith("continue with: advreg train run.toml --resume")
    assert "Traceback" not in found.stderr

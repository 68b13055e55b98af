"""What the verb train makes of its options, without training; and what Ctrl-C says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import advreg.cli.train
from advreg.cli.app import app
from advreg.config import Config
from advreg.errors import ConfigError
from advreg.runs import RunFolder

ROBUST = ["attack.name=pgd", "recipe.name=madry", "threat.eps=0.1", "optimizer.lr=0.1"]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A function of the command line's words that returns the configuration which would be trained."""
    seen: list[Config] = []
    monkeypatch.setattr(
        advreg.cli.train, "fit", lambda config, **options: seen.append(config) or RunFolder(Path(config.train.out))
    )

    def ask(*words, changes=()):
        (tmp_path / "run.toml").write_text(Config().replace_with([*ROBUST, *changes]).to_toml())
        CliRunner().invoke(app, ["train", str(tmp_path / "run.toml"), *words], catch_exceptions=False)
        return seen.pop()

    return ask


@pytest.mark.parametrize("out", ["20240131", "true", "8/255", "runs/a=b", "[1]"])
def test_a_folder_is_a_name_whatever_it_looks_like(asked, out):
    assert asked("--out", out).train.out == out


def test_set_has_the_last_word_also_on_what_fine_tuning_refuses(asked):
    start, moving = ["--finetune", "timm:resnet18"], ["policy.name=iaat"]
    tuned = asked(*start, "--set", "policy.name=fixed", "--set", "optimizer.lr=0.03", changes=moving)
    assert (tuned.policy.name, tuned.optimizer.lr) == ("fixed", 0.03)
    assert asked(*start).policy.name == "warmup"
    with pytest.raises(ConfigError, match="give ramp = 0"):
        asked(*start, changes=moving)


def test_a_ratio_without_fine_tuning_is_refused(asked):
    with pytest.raises(ConfigError, match=r"--ratio is 0\.3, which belongs to fine-tuning; add --finetune RUN"):
        asked("--ratio", "0.3")
    assert dict(asked("--ratio", "0.3", "--finetune", "timm:resnet18").recipe.options) == {"ratio": 0.3}


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(tmp_path):
    interrupted = """
import sys
import advreg.cli.train
from advreg.cli import main
def interrupt(wish):
    raise KeyboardInterrupt
advreg.cli.train.run_train = interrupt
sys.argv = ["advreg", "train", "run.toml"]
main()
"""
    found = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True, check=False)
    assert found.returncode == 130
    assert found.stderr.strip().startswith("advreg: interrupted; finished work is saved")
    assert "Traceback" not in found.stderr

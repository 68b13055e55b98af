"""`advreg demo --finetune`, on a sixtieth of the data: it runs, goes on, and says what it cost."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from advreg.cli import demo
from advreg.cli.app import app


def test_fine_tuning_is_shown_with_its_price(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_N", 20)
    short = ["data.validation=59000", "train.validation_steps=1", "train.epochs=1", "train.device=cpu"]
    monkeypatch.setattr(demo, "_RECIPES", {name: [*keys, *short] for name, keys in demo._RECIPES.items()})
    monkeypatch.setattr("advreg.training.epoch.validate", lambda *arguments: None)
    result = CliRunner().invoke(app, ["demo", "--finetune", "--out", str(tmp_path / "demo")])
    assert result.exit_code == 0, result.output
    price = next(line for line in result.output.splitlines() if "passes of single images" in line)
    # 1,000 images: once forward and back; twice, in two epochs, with two steps of attack; once with two steps of attack
    assert re.findall(r"([\d.]+) million", price) == ["0.0", "0.0", "0.0"]
    plain, tuned, scratch = (
        demo._cost(tmp_path / "demo" / name)[0] for name in ("plain-cnn", "finetuned-cnn", "robust-cnn")
    )
    assert (plain, tuned, scratch) == (2000, 12000, 6000)


@pytest.mark.parametrize("name", ["tensorbord", "csv"])
def test_an_unknown_log_is_wrong_use(tmp_path, name):
    result = CliRunner().invoke(app, ["train", "configs/mnist-fgsm.toml", "--log", name, "--out", str(tmp_path / "a")])
    assert "unknown log" in str(result.exception)

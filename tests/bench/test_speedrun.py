"""The speed run in miniature: it runs to its end anywhere, and calls a miniature what it is."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "bench"))
import cifar10_jpeg  # noqa: E402
import speedrun  # noqa: E402

needs_data = pytest.mark.skipif(not cifar10_jpeg.FOLDER.is_dir(), reason="needs cifar10-jpeg in ../shared/data")


def options(**changes):
    return speedrun.argparse.Namespace(
        **{"tier": "45", "images": 64, "width": 0.125, "batch_size": 32, "epochs": 1, "set": [], "n": 2, **changes}
    )


@needs_data
def test_warming_up_leaves_the_run_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(speedrun.networks, "KEPT", tmp_path)
    session = speedrun.prepare(speedrun.configured(0, options()))
    speedrun.train_mode(session.model)
    before, rates = copy.deepcopy(session.model.state_dict()), session.scheduler.get_last_lr()
    speedrun.warm_up(session, steps=2)
    assert all(torch.equal(now, before[name]) for name, now in session.model.state_dict().items())
    assert session.scheduler.get_last_lr() == rates
    assert session.optimizer.state_dict()["state"] == {}


@needs_data
@pytest.mark.slow
def test_a_miniature_runs_to_its_end_and_says_what_it_is(tmp_path):
    wish = ["--images", "64", "--epochs", "1", "--width", "0.125", "--batch-size", "32", "--n", "2", "--seeds", "1"]
    command = [sys.executable, str(ROOT / "bench" / "speedrun.py"), *wish, "--out", str(tmp_path / "out.jsonl")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=250).stdout
    assert "a miniature, no result" in said
    assert "measured on" in said


def test_a_whole_run_is_judged_by_the_mean_over_its_seeds():
    rows = [{"seed": s, "seconds": 10.0, "clean": 0.8, "robust": r, "n": 10_000} for s, r in enumerate((0.44, 0.48))]
    said = speedrun.summary(rows, options(images=None, width=1.0, n=None, compile="none"))
    assert "45% under standard reached: mean 46.00% after 10.0 s, 2 seeds" in said
    said = speedrun.summary(rows[:1], options(images=None, width=1.0, n=None, compile="none"))
    assert any("NOT reached" in line for line in said)

"""The command line as a stranger uses it: status, one line on standard error, never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from advreg.data import load


def advreg(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "advreg", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=240)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A small network trained for one epoch on few images, through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    train, test = load("mnist")
    arrays = {"x": train.images[:600].numpy(), "y": train.labels[:600].numpy()}
    np.savez(folder / "few.npz", **arrays, x_test=test.images[:60].numpy(), y_test=test.labels[:60].numpy())
    (folder / "run.toml").write_text(
        f'[model]\nname = "zoo:mnist-small"\n[data]\nname = "npz:{folder}/few.npz"\nvalidation = 50\n'
        f'[threat]\neps = 0.1\n[train]\nepochs = 1\nout = "{folder}/run"\n'
    )
    done = advreg("train", folder / "run.toml")
    assert done.returncode == 0, done.stderr
    assert "next: advreg evaluate" in done.stdout
    return folder / "run"


def test_train_evaluate_report_compare(run: Path) -> None:
    found = advreg("evaluate", run, "--protocol", "basic", "--curve", "0,0.05,1/10", "--json")
    assert found.returncode == 0, found.stderr
    record = json.loads(found.stdout)
    assert record["n"] == 60
    assert [p["eps"] for p in record["curve"]["points"]] == pytest.approx([0, 0.05, 0.1])
    table = advreg("evaluate", run, "--protocol", "basic")
    assert "pgd-40" in table.stdout
    assert "attack success rate" in table.stdout
    page = advreg("report", run)
    assert Path(page.stdout.strip()).read_text().lstrip().lower().startswith("<!doctype html>")
    side = advreg("compare", run, run, "--json")
    assert json.loads(side.stdout)[0]["protocol"] == "linf-0.1-basic@1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "zoo:mnist-cn", "--data", "mnist", "--threat", "linf:0.1"], "Did you mean 'mnist-cnn'"),
        (["evaluate", "zoo:mnist-cnn", "--data", "mnits", "--threat", "linf:0.1"], "mnist"),
        (["evaluate", "zoo:mnist-cnn", "--data", "mnist"], "add --threat"),
        (["evaluate", "zoo:mnist-cnn", "--threat", "linf:0.1"], "add --data"),
        (["evaluate", "zoo:mnist-cnn", "--data", "mnist", "--threat", "linf:80"], "wider than the box"),
        (["train", "nowhere.toml"], "nowhere.toml"),
        (["report", "nowhere"], "nowhere"),
        (["evaluat"], "No such command"),
    ],
)
def test_wrong_use_is_one_clear_line_and_status_two(arguments: list[str], words: str) -> None:
    found = advreg(*arguments)
    assert found.returncode == 2
    assert words in found.stderr
    assert "Traceback" not in found.stderr


def test_an_existing_run_is_refused_and_left_whole(run: Path) -> None:
    before = {file: file.read_bytes() for file in run.iterdir() if file.is_file()}
    found = advreg("train", run.parent / "run.toml")
    assert found.returncode == 2
    assert "resume" in found.stderr
    assert {file: file.read_bytes() for file in before} == before


def test_help_is_quick_to_read_and_names_every_verb() -> None:
    found = advreg("--help")
    for verb in ("demo", "train", "evaluate", "report", "compare", "doctor"):
        assert verb in found.stdout

"""The pipelines of docs/ci.md parse, and their commands run in miniature: few examples, a small network."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from advreg.cli.app import app

yaml = pytest.importorskip("yaml")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "ci.md"
GITHUB, GITLAB, HOOK = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S))
STEPS = [step["run"] for step in GITHUB["jobs"]["robustness"]["steps"] if "run" in step]
RUN = """\
[data]
name = "npz:few.npz"
validation = 4
[model]
name = "zoo:mnist-small"
[threat]
eps = 0.01
[train]
epochs = 6
batch_size = 8
[optimizer]
name = "adam"
lr = 0.003
"""


def run(command: str) -> int:
    program, *arguments = shlex.split(command)
    assert program == "advreg"
    return CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("project"), np.random.default_rng(0)
    y = np.arange(24) % 2
    x = ((y[:, None, None, None] * 200 + rng.integers(0, 50, (24, 1, 28, 28))) % 256).astype(np.uint8)
    np.savez(folder / "few.npz", x=x, y=y, x_test=x[:8], y_test=y[:8])
    (folder / "run.toml").write_text(RUN)
    return folder


def test_github_and_gitlab_run_the_same_commands() -> None:
    assert GITLAB["robustness"]["script"] == STEPS
    assert GITLAB["robustness"]["artifacts"]["reports"]["junit"] == "robustness.xml"


def test_commands_run_and_the_hook_passes_and_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    commands = [command.replace("strong", "quick") for command in STEPS if command.startswith("advreg")]
    train, evaluate, report, compare = commands
    assert run(train) == run(evaluate) == 0
    assert run("advreg compare runs/candidate --save-baseline main") == 0
    assert run(report) in (0, 1)
    assert ElementTree.parse("robustness.xml").getroot().get("tests") == "1"
    assert run(compare) == 0
    (hook,) = HOOK["repos"][0]["hooks"]
    assert hook["entry"] == compare
    assert re.match(hook["files"], "runs/candidate/evaluation/linf-0.01-quick@2/ledger.jsonl")
    stored = Path(".advreg/baselines/main.json")
    ledger = next(Path("runs/candidate/evaluation").glob("*/ledger.jsonl"))
    worse = ledger.read_text().replace('"broken": false', '"broken": true').replace('"broken":false', '"broken":true')
    ledger.write_text(worse)
    assert stored.is_file()
    assert run(hook["entry"]) == 1

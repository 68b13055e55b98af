"""Run folders, ledgers and configurations written by version 0.1.0 open as before: names on disk never change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import advreg
from advreg.config import Config
from advreg.language import LanguageConfig
from advreg.runs import Ledger
from tests import processes

OLD = Path(__file__).parent / "fixtures" / "old"
RUNS = ("image-run", "image-run-2")
PROTOCOLS = ("linf-0.2-quick@2", "linf-0.2-strong@3")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def status(*words: str) -> int:
    return processes.run(*words).returncode


@pytest.mark.parametrize("run", RUNS)
def test_an_old_configuration_keeps_its_text_beside_newer_options(run: str) -> None:
    lines = (OLD / run / "run.toml").read_text().splitlines()
    written = Config.load(OLD / run / "run.toml").to_toml().splitlines()
    assert [line for line in written if line not in NEWER] == lines


NEWER = (
    "drop_last = false",
    'system = ""',
    'quantization = "none"',
    'step_rule = "normalised"',
    'cutoff_over = "example"',
    "reroute = 10.0",
    "micro_batch = 0",
    "checkpointing = false",
    'init = "default"',
    "awp_start = 0.0",
    'split = "none"',
    "predictor = 0",
    "balanced = false",
    'norms = ""',
    'union = "max"',
    'decay = "all"',
    "layer_decay = 1.0",
)
"""Options of later versions, at the defaults that leave an old run what it was."""


def test_an_old_language_configuration_reads_and_writes_the_same_text() -> None:
    text = (OLD / "language-run" / "language.toml").read_text()
    written = LanguageConfig.load(OLD / "language-run" / "language.toml", trust_code=True).to_toml()
    assert [line for line in written.splitlines() if line not in NEWER] == text.splitlines()


@pytest.mark.parametrize("run", RUNS)
def test_an_old_model_gives_the_figures_it_was_written_with(folder: Path, run: str) -> None:
    results = json.loads((folder / run / "evaluation" / PROTOCOLS[0] / "results.json").read_text())
    model, (_, test) = advreg.load_model(run), advreg.load_data("npz:images.npz")
    threat = advreg.ThreatModel("linf", 0.2)
    found = advreg.evaluate(model, test, threat=threat, protocol="fgsm")
    assert found.clean_accuracy == results["clean_accuracy"]
    assert 0 < results["robust_accuracy"] < 1


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_old_ledger_agrees_with_its_results(run: str, protocol: str) -> None:
    place = OLD / run / "evaluation" / protocol
    results = json.loads((place / "results.json").read_text())
    rows = Ledger(place / "ledger.jsonl").rows()
    broken = {row["id"] for row in rows if row["broken"]}
    assert 1 - len(broken) / results["n"] == pytest.approx(results["robust_accuracy"])


def test_an_old_run_is_reported_compared_and_gated(folder: Path) -> None:
    assert status("report", "image-run") == 0
    page = (folder / "image-run" / "report.html").read_text()
    assert PROTOCOLS[0] in page
    assert "32.5" in page
    assert status("compare", *RUNS) == 0
    assert status("harden", "gate", *RUNS, "--protocol", PROTOCOLS[1]) in (0, 1)
    assert json.loads((folder / "image-run-2" / "decision.json").read_text())["schema"] == "advreg/decision@1"

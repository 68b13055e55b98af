"""The dossier: every field is filled from a file whose hash it states, or names a command that exists."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from advreg.cli.app import app
from advreg.report import dossier, read
from advreg.report.dossier_evidence import FILLS

from .fake_run import write_run
from .markup import Page


@pytest.fixture(scope="module")
def found(run: Path) -> dict[tuple[str, str], dossier.Field]:
    return {(each.name, field.clause): field for each in dossier.dossier(read.run(run)) for field in each.fields}


def test_every_field_is_measured_or_names_what_would_measure_it(run: Path, found: dict) -> None:
    known = set(typer.main.get_command(app).commands)
    for field in found.values():
        for each in field.evidence:
            assert each.sha256 == hashlib.sha256((run / each.file).read_bytes()).hexdigest()
        if field.state == "not measured":
            program, verb, *_ = shlex.split(field.command)
            assert program == "advreg"
            assert verb in known
    states = {field.state for field in found.values()}
    assert states == {"measured", "not measured", "not covered"}


def test_every_fill_is_used_and_every_standard_has_fields() -> None:
    fields = [field for each in dossier.standards() for field in each["field"]]
    assert {field["fill"] for field in fields} == set(FILLS)
    assert [each["name"] for each in dossier.standards()] == [
        "EU AI Act, Regulation (EU) 2024/1689",
        "ISO/IEC TR 24029-1:2021",
        "ISO/IEC 24029-2:2023",
        "NIST AI 100-2 E2025",
        "NIST AI RMF 1.0",
        "MITRE ATLAS",
    ]
    assert all(field["command"] == "" for field in fields if field["fill"] == "nothing")


def test_figures_are_those_of_the_run(run: Path, found: dict) -> None:
    declared = found["EU AI Act, Regulation (EU) 2024/1689", "Article 15(3)"]
    assert declared.evidence[0].text.startswith("linf-0.1-standard@1: clean accuracy 98.6% of 1,000 images (97.7% to")
    evaded = found["MITRE ATLAS", "AML.T0043.001 Black-Box Optimization"]
    square = read.run(run).evaluations[0].attacks[-1]
    assert [each.text for each in evaded.evidence] == [
        f"linf-0.1-standard@1: square broke {square.broken} of {square.tried}"
    ]
    assert found["ISO/IEC 24029-2:2023", "Stability on a bounded domain"].command == "advreg certify robust-cnn"
    assert "verdict TRUSTED" in found["NIST AI RMF 1.0", "MEASURE 2.7"].evidence[0].text


def test_other_files_of_the_folder_fill_their_fields(tmp_path: Path) -> None:
    run = write_run(tmp_path / "full")
    decision = {"verdict": "PROMOTE", "tests": [{"name": "clean accuracy, not worse", "says": "0 lost"}]}
    (run / "artefacts" / "model.onnx").mkdir(parents=True)
    for place in ("decision.json", "artefacts/model.onnx/decision.json"):
        (run / place).write_text(json.dumps(decision))
    probes = {"checks": [{"name": "trigger", "passed": True, "says": "no trigger below 5%"}]}
    (run / "probes.json").write_text(json.dumps(probes))
    transfer = {"name": "transfer", "verdict": "pass", "says": "broke none"}
    checks = {
        "schema": "advreg/diagnosis@1",
        "verdict": "TRUSTED",
        "claim": "linf-0.1-standard@1",
        "checks": [transfer],
    }
    (run / "diagnosis.json").write_text(json.dumps(checks))
    facts = read.run(run)
    said = {name: [(each.text, each.file) for each in fill(facts)] for name, fill in FILLS.items()}
    assert said["gate"] == [("PROMOTE: clean accuracy, not worse: 0 lost", "decision.json")]
    assert said["artefact"] == [(said["gate"][0][0], "artefacts/model.onnx/decision.json")]
    assert said["backdoor_probes"] == [("trigger: passed, no trigger below 5%", "probes.json")]
    assert said["transfer"] == [("diagnosis, transfer: pass, broke none", "diagnosis.json")]
    assert said["diagnosis"] == [("verdict TRUSTED on linf-0.1-standard@1, 1 checks", "diagnosis.json")]
    assert said["nothing"] == []


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path / place / "net") for place in ("a", "b"))
    written = [[file.read_bytes() for file in dossier.write_dossier(run)] for run in (first, second)]
    assert written[0] == written[1]
    assert [file.name for file in dossier.write_dossier(first, tmp_path / "out")] == [
        "dossier.html",
        "dossier.json",
        "dossier.md",
    ]
    kept = json.loads((first / "dossier.json").read_text())
    sha256 = kept.pop("sha256")
    assert sha256 == hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    assert str(tmp_path) not in json.dumps(kept)


def test_page_and_markdown_hold_every_field(run: Path, found: dict, tmp_path: Path) -> None:
    html, _, md = dossier.write_dossier(run, tmp_path)
    page, text = Page(html.read_text()), md.read_text()
    assert not page.sources
    assert page.pointed <= set(page.ids)
    for _, clause in found:
        assert clause in page.words
        assert f"| {clause} |" in text
    assert "not measured advreg certify robust-cnn" in page.words
    assert len(re.findall(r"\n\| ", text)) == len(found) + 6


def test_verb_writes_three_files_and_reports_wrong_folders(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["dossier", str(run), "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "MITRE ATLAS" in done.output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dossier.html", "dossier.json", "dossier.md"]
    printed = CliRunner().invoke(app, ["dossier", str(run), "--out", str(tmp_path), "--json"], catch_exceptions=False)
    assert json.loads(printed.output) == json.loads((tmp_path / "dossier.json").read_text())
    assert "no run folder at" in str(CliRunner().invoke(app, ["dossier", str(tmp_path / "none")]).exception)

"""Results outside the page: drawings, notebook reprs, PNG, CSV, PDF, and what trackers receive."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import advreg
from advreg.cli.app import app
from advreg.diagnosis import Diagnosis
from advreg.report import figures, read
from advreg.report.svg import _ON_WHITE
from advreg.results.checks import Check
from advreg.results.curve import Curve, CurvePoint
from advreg.results.evaluation import AttackSummary, Evaluation
from advreg.sweep import Sweep
from advreg.threat import ThreatModel

SIGNATURE = b"\x89PNG"


def evaluation() -> Evaluation:
    attacks = (AttackSummary("pgd", 9, 2, 0.7, 1, 1, 0.1), AttackSummary("square", 7, 1, 0.6, 1, 0, 0.1))
    ends = (0.3, 0.8)
    broken = torch.zeros(10, dtype=torch.bool)
    return Evaluation(
        "linf-0.1-quick@2",
        ThreatModel("linf", 0.1),
        10,
        0,
        0.9,
        ends,
        0.6,
        ends,
        0.3,
        ends,
        broken,
        attacks,
        (),
        1,
        1,
        0.1,
    )


def diagnosis() -> Diagnosis:
    checks = (
        Check("steps", "B", "pass", 0.0, threshold=0.002, limit=0.06),
        Check("transfer", "A", "fail", 0.5, threshold=0.002, limit=0.06, says="a <b>", cause="weak attack"),
        Check("history", "G", "skipped", says="no training log"),
    )
    return Diagnosis(ThreatModel("linf", 0.1), "pgd-40", 10, 0.9, 0.6, (0.3, 0.8), checks)


def curve() -> Curve:
    return Curve("linf", "pgd", 10, 0, tuple(CurvePoint(e, 1 - e, (0.9 - e, 1.0)) for e in (0.0, 0.1)))


def sweep(tmp_path: Path) -> Sweep:
    figure = {"value": 0.9, "interval": [0.8, 0.95]}
    setting = {"setting": {"threat.eps": "0.1"}, "clean_accuracy": figure, "robust_accuracy": figure}
    record = {"settings": [setting], "frontier": [0], "reference": None, "recommended": 0, "nearest": None}
    return Sweep(tmp_path, record | {"threat": "linf:0.1", "keys": [], "rows": [], "budget": 0.01})


def test_bars_and_lines_are_the_figures() -> None:
    assert [bar.get_width() for bar in evaluation().plot().patches] == [0.9, 0.7, 0.6]
    assert curve().plot().lines[0].get_xydata().tolist() == [[0.0, 1.0], [0.1, 0.9]]
    words = [text.get_text() for text in diagnosis().plot().texts]
    assert words[:3] == ["✓", "steps", "0, limit 0.002"]
    assert words[3:5] == ["✕", "transfer"]


def test_drawings_go_onto_given_axes() -> None:
    from matplotlib.figure import Figure

    for result in (evaluation(), curve(), diagnosis()):
        axes = Figure().subplots()
        assert result.plot(axes) is axes


def test_reprs_are_escaped_html_and_repeat_to_the_byte(tmp_path: Path, run: Path) -> None:
    for result in (evaluation(), curve(), diagnosis(), sweep(tmp_path), advreg.compare(run)):
        text = result._repr_html_()
        assert text == result._repr_html_()
        assert text.count("<table>") == 1
        assert "<script" not in text
        assert "http" not in text
    assert "a &lt;b&gt;" in diagnosis()._repr_html_()
    assert "30.00% to 80.00%" in evaluation()._repr_html_()
    assert "data:image/svg+xml;base64," in evaluation()._repr_html_()


def test_comparison_draws_each_evaluation(run: Path) -> None:
    found = advreg.compare(run, run)
    rows = [row.robust_accuracy for row in found.rows]
    drawn = [line.get_xdata()[0] for line in found.plot().lines[1::3]]
    assert drawn == rows
    assert len(rows) == 6


def test_figures_have_the_colours_of_the_page(run: Path) -> None:
    drawn = figures.figures(read.run(run))
    protocols = ("linf-0.1-standard@1", "linf-0.1-quick@2", "l2-1.5-quick@2")
    assert set(drawn) == {"training", *(f"{kind}-{name}" for kind in ("attacks", "curve") for name in protocols)}
    for name, figure in drawn.items():
        pixels = np.asarray(Image.open(io.BytesIO(figures.png(figure))).convert("RGB")).reshape(-1, 3)
        assert (pixels[0] == 255).all(), name
        seen = {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(pixels, axis=0)}
        assert "#1657c8" in seen, name  # robust
        assert not seen & set(_ON_WHITE), name  # no placeholder is left


def test_verb_writes_png_csv_and_pdf_that_repeat(run: Path, tmp_path: Path) -> None:
    options = ["--png", str(tmp_path / "png"), "--csv", str(tmp_path / "csv"), "--pdf", str(tmp_path / "run.pdf")]
    command = ["report", str(run), "--out", str(tmp_path / "r.html"), *options, "--json"]
    files = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).output)["files"]
    assert {"html", "run.pdf", "training.png", "evaluations.csv", "curve-linf-0.1-standard@1.png"} <= set(files)
    before = {name: Path(path).read_bytes() for name, path in files.items()}
    assert before["training.png"].startswith(SIGNATURE)
    assert before["run.pdf"].startswith(b"%PDF")
    (tmp_path / "run.pdf").unlink()
    CliRunner().invoke(app, command, catch_exceptions=False)
    assert {name: Path(path).read_bytes() for name, path in files.items()} == before
    rows = list(csv.DictReader(io.StringIO(before["evaluations.csv"].decode())))
    assert (rows[0]["protocol"], rows[0]["threat"], rows[0]["robust_accuracy"]) == (
        "linf-0.1-standard@1", "linf:0.1", "0.947",
    )  # fmt: skip
    assert len(list(csv.DictReader(io.StringIO(before["curves.csv"].decode())))) == 39


class Recorder:
    """Writes down what is called on it; every call returns the recorder."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple, dict]] = []

    def __getattr__(self, name: str) -> object:
        def call(*arguments: object, **options: object) -> Recorder:
            self.calls.append((name, arguments, options))
            return self

        return call

    def named(self, name: str) -> list[tuple]:
        return [arguments for called, arguments, _ in self.calls if called == name]


def test_trackers_get_the_figures_and_the_page(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Recorder()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=seen.SummaryWriter))
    monkeypatch.setitem(sys.modules, "mlflow", seen)
    monkeypatch.setitem(sys.modules, "wandb", seen)
    logs = [part for name in ("tensorboard", "mlflow", "wandb") for part in ("--log", name)]
    done = CliRunner().invoke(app, ["report", str(run), *logs], catch_exceptions=False)
    assert done.exit_code == 0
    page = str(run / "report.html")
    assert {name for name, *_ in seen.named("add_image")} >= {"figures/training", "figures/curve-linf-0.1-standard@1"}
    assert seen.named("add_text") == [("report", page)]
    assert "figures/training.png" in {name for _, name in seen.named("log_image")}
    assert (page,) in seen.named("log_artifact")
    assert seen.named("Artifact") == [("report-robust-cnn",)]
    assert seen.named("add_file") == [(page,)]
    assert "figures/training" in seen.named("log")[0][0]

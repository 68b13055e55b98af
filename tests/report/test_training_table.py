"""The table of trainings: cost as a multiple of standard training, and accuracy under each attack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from advreg import report
from advreg.cli.app import app
from tests.report.fake_run import results, write_evaluation

LINE = {"epoch": 1, "examples": 1000, "forwards": 11_000, "backwards": 11_000, "seconds": 2.0, "peak_memory": 3 * 2**20}


def write_run(folder: Path, lines: list[dict], attack: str = "pgd") -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.toml").write_text(f'[recipe]\nname = "madry"\n[attack]\nname = "{attack}"\nsteps = 10\n')
    return folder


def test_time_memory_and_passes_cover_all_epochs(tmp_path):
    lines = [LINE, {**LINE, "epoch": 2, "peak_memory": 5 * 2**20, "forwards": 13_000}]
    (row,) = report.trainings([write_run(tmp_path / "a", lines)])
    assert (row.recipe, row.attack, row.epochs) == ("madry", "pgd-10", 2)
    assert (row.seconds, row.peak_memory) == (4.0, 5 * 2**20)
    assert row.cost == pytest.approx((24_000 + 22_000) / 4000)
    assert row.pgd_accuracy is row.autoattack_accuracy is row.threat is None


def test_row_holds_pgd_and_autoattack_accuracy(tmp_path):
    run = write_run(tmp_path / "a", [LINE], attack="n-fgsm")
    for name, robust in (("quick", 0.5), ("basic", 0.48), ("standard", 0.4), ("strong", 0.39)):
        write_evaluation(run, {**results(f"linf-0.1-{name}@1", "linf", 0.1, 0.03), "robust_accuracy": robust}, shown=0)
    (row,) = report.trainings([run])
    assert (row.attack, row.pgd_accuracy, row.autoattack_accuracy) == ("n-fgsm", 0.48, 0.4)


def test_each_threat_has_its_row(tmp_path):
    run = write_run(tmp_path / "a", [LINE])
    for eps in (0.1, 0.2):
        write_evaluation(run, results(f"linf-{eps}-quick@2", "linf", eps, 0.03), shown=0)
    assert [row.threat for row in report.trainings([run])] == ["linf:0.1", "linf:0.2"]


def test_evaluation_belongs_to_the_row_of_its_threat(tmp_path):
    run = write_run(tmp_path / "a", [LINE])
    for eps, robust in ((0.1, 0.5), (0.2, 0.3)):
        write_evaluation(run, results(f"linf-{eps}-quick@2", "linf", eps, robust), shown=0)
    found = json.loads(CliRunner().invoke(app, ["compare", str(run), "--json"], catch_exceptions=False).output)
    assert {(row["threat"], row["training"]["threat"], row["training"]["pgd_accuracy"]) for row in found} == {
        ("linf:0.1", "linf:0.1", 0.5), ("linf:0.2", "linf:0.2", 0.3),
    }  # fmt: skip


def test_attack_without_steps_keeps_its_name(tmp_path):
    run = write_run(tmp_path / "a", [LINE])
    (run / "run.toml").write_text('[attack]\nname = "pgd"\n')
    (row,) = report.trainings([run])
    assert (row.recipe, row.attack) == ("-", "pgd")


def test_missing_columns_of_an_old_run_are_none(tmp_path):
    older = {key: LINE[key] for key in ("epoch", "seconds")}
    (row,) = report.trainings([write_run(tmp_path / "a", [LINE, {**older, "epoch": 2}])])
    assert row.cost is None
    assert (row.seconds, row.peak_memory) == (4.0, 3 * 2**20)


def test_run_without_training_is_left_out(tmp_path):
    write_evaluation(tmp_path / "a", results("linf-0.1-quick@2", "linf", 0.1, 0.03), shown=0)
    assert report.trainings([tmp_path / "a"]) == []


def test_page_and_terminal_show_the_table(tmp_path):
    run = write_run(tmp_path / "a", [LINE])
    write_evaluation(run, results("linf-0.1-quick@2", "linf", 0.1, 0.03), shown=0)
    page = report.write_comparison([run], tmp_path / "c.html").read_text()
    assert "Cost and accuracy of training" in page
    assert "11.0x" in page
    shown = CliRunner().invoke(app, ["compare", str(run)], catch_exceptions=False).output
    assert "madry" in shown
    assert "11.0x" in shown
    rows = json.loads(CliRunner().invoke(app, ["compare", str(run), "--json"], catch_exceptions=False).output)
    assert rows[0]["training"]["cost"] == 11.0

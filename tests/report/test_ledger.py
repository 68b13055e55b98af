"""The summary of a ledger: equal to a count by hand, shown in the page, absent where rows are old."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from advreg import report
from advreg.report import ledger, read
from advreg.report.paired_tests import paired_tests

from .fake_run import curve, results, write_evaluation, write_training
from .markup import Page

ID = "linf-0.1-quick@2"


def row(attack: str, k: int, label: int, predicted: int, broken: bool) -> dict:
    return {"attack": attack, "id": k, "label": label, "predicted": predicted, "broken": broken}


HAND = [
    row("clean", 0, 0, 0, False), row("clean", 1, 0, 2, True), row("clean", 2, 1, 1, False), row("clean", 3, 1, 1, False),
    row("fgsm", 0, 0, 0, False), row("fgsm", 2, 1, 0, True), row("fgsm", 3, 1, 1, False),
    row("pgd-40", 0, 0, 2, True), row("pgd-40", 3, 1, 1, False),
]  # fmt: skip


def write_ledger(folder: Path, rows: list[dict], data: str = "d1") -> None:
    lines = [{"schema": "advreg/ledger@1", "data": data}, *rows]
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_confusions_equal_a_count_by_hand() -> None:
    found = ledger.summarize(HAND, ["zero", "one", "two"])
    assert found.confusion.tolist() == [[0, 0, 2], [1, 1, 0], [0, 0, 0]]
    assert found.attacks == ("clean", "fgsm", "pgd-40")
    assert found.broken.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert found.ids == {0, 1, 2}
    assert [(c.label, c.predicted, c.count, c.share) for c in found.confusions] == [
        ("zero", "two", 2, 1.0),
        ("one", "zero", 1, 0.5),
    ]
    assert found.broken_classes == [("clean", [("zero", 1)]), ("fgsm", [("one", 1)]), ("pgd-40", [("zero", 1)])]


def test_diagonal_counts_the_robust_examples() -> None:
    rng = np.random.default_rng(0)
    rows = [row("clean", k, k % 5, k % 5, False) for k in range(200)]
    rows += [row("a", k, k % 5, int(rng.integers(5)), False) for k in range(200)]
    broken = [r | {"attack": "b", "predicted": (r["label"] + 1) % 5, "broken": True} for r in rows[:200:3]]
    found = ledger.summarize(rows + broken)
    assert found.confusion.sum() == found.total == 200
    assert np.trace(found.confusion) == 200 - len(broken)
    assert found.broken.sum() == len(found.ids) == len(broken)


@pytest.mark.parametrize("rows", [[], [{"attack": "pgd", "id": 0, "broken": True}], [row("pgd", 0, -1, 0, True)]])
def test_rows_without_predictions_give_no_confusions(tmp_path: Path, rows: list[dict]) -> None:
    write_ledger(write_evaluation(tmp_path / "a", results(ID, "linf", 0.1, 0.9), shown=0), rows)
    assert read.run(tmp_path / "a").evaluations[0].ledger is None
    assert "Confusions under attack" not in report.write(tmp_path / "a").read_text()


def test_page_shows_confusions(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "a", results(ID, "linf", 0.1, 0.25, n=4, clean=0.75), shown=0)
    write_ledger(folder, HAND)
    page = Page(report.write(tmp_path / "a").read_text())
    assert "Most often 0 was classified as 2 (2), 1 was classified as 0 (1)." in page.words
    assert "clean errors" in page.words
    assert len(page.with_class("taken")) == 2


def test_confusions_of_many_classes_are_a_list(tmp_path: Path) -> None:
    record = results(ID, "linf", 0.1, 0.5)
    record["data"]["classes"] = [f"class {k}" for k in range(40)]
    rows = [row("clean", k, k, k, False) for k in range(40)] + [row("pgd", k, k, (k + 1) % 40, True) for k in range(20)]
    write_ledger(write_evaluation(tmp_path / "a", record, shown=0), rows)
    page = Page(report.write(tmp_path / "a").read_text())
    assert not page.with_class("confusion")
    assert "class 3 class 4 1 100.0%" in page.words


def two_runs(tmp_path: Path, second: str = "d1") -> list:
    """Attacks break images 0 to 19 of one model and 15 to 59 of the other, of 100."""
    for name, broken, data in [("a", range(20), "d1"), ("b", range(15, 60), second)]:
        folder = write_evaluation(tmp_path / name, results(ID, "linf", 0.1, 0.5, n=100), shown=0)
        rows = [row("clean", k, 0, 0, False) for k in range(100)]
        write_ledger(folder, rows + [row("pgd", k, 0, 1, True) for k in broken], data)
    return [read.run(tmp_path / name) for name in "ab"]


def test_pairs_are_tested_on_images_where_one_is_robust(tmp_path: Path) -> None:
    (pair,) = paired_tests(two_runs(tmp_path))
    assert (pair.only_first, pair.only_second, pair.n) == (40, 15, 100)
    assert pair.difference == pytest.approx(0.25)
    assert pair.interval[0] < 0.25 < pair.interval[1]
    assert pair.p == pytest.approx(binomtest(40, 55).pvalue)
    page = Page(report.write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "c.html").read_text())
    assert "a against b" in page.words
    assert "+25.0 points" in page.words


def test_runs_on_other_images_are_not_paired(tmp_path: Path) -> None:
    assert paired_tests(two_runs(tmp_path, second="d2")) == []


def test_page_shows_distances_eps_and_guard(tmp_path: Path) -> None:
    run = tmp_path / "a"
    write_training(run)
    log = (run / "metrics.jsonl").read_text().splitlines()
    lines = [json.dumps(json.loads(line) | {"eps": 0.01 * k}) for k, line in enumerate(log)]
    guard = {
        "event": "guard",
        "epoch": 4,
        "step": 20,
        "trouble": "catastrophic overfitting",
        "said": "gap",
        "action": "went back",
    }
    (run / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(guard)]) + "\n")
    folder = write_evaluation(run, results("linf-0.1-standard@1", "linf", 0.1, 0.9), curve("linf", [0.0, 0.1], 0.1))
    norms = {"schema": "advreg/norms@1", "norm": "linf", "distances": [0.02, None] + [0.05] * 58}
    (folder / "norms.json").write_text(json.dumps(norms))
    text = report.write(run).read_text()
    page = Page(text)
    assert "broken at eps 0.02 (5.1 of 255)" in page.words
    assert "guard, epoch 4, step 20: catastrophic overfitting: gap; went back" in page.words
    assert "guard warning" in text
    assert ">eps</text>" in text
    assert "--curve 0,0.1 --distances" in page.words
    assert [values["name"] for tag, values in page.tags if tag == "select"] == ["class", "outcome", "attack"]


def test_flags_are_warnings_or_notes(tmp_path: Path) -> None:
    record = results(ID, "linf", 0.1, 0.9)
    record["flags"] = {
        "randomised": True, "zero_gradients": 0.5, "few_classes": True, "black_box_gain": 0.01, "non_finite": 2,
        "target": "float32", "batch": 256,
    }  # fmt: skip
    write_evaluation(tmp_path / "a", record, shown=0)
    words = Page(report.write(tmp_path / "a").read_text()).words
    for text in (
        "different outputs for the same input",
        "50.0% of the sampled clean examples",
        "broke 1.0% of the examples",
        "2 outputs",
    ):
        assert text in words
    assert "attacked a copy in float32, 256 at a time" in words
    quiet = record | {"flags": {"batch": 256, "black_box_gain": 0.001, "zero_gradients": 0.0, "non_finite": 0}}
    write_evaluation(tmp_path / "b", quiet, shown=0)
    assert "Warnings" not in Page(report.write(tmp_path / "b").read_text()).words


def test_page_uses_the_terms_of_auditors(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", results("linf-8/255-standard@1".replace("/", "_"), "linf", 8 / 255, 0.5), shown=0)
    words = Page(report.write(tmp_path / "a").read_text()).words
    assert "every pixel may change by at most 8/255 (8 of 255 grey levels)" in words
    for text in ("NIST AI 100-2", "Evasion attack", "AML.T0043.000"):
        assert text in words


def test_verdict_is_that_of_the_diagnosis(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", results(ID, "linf", 0.1, 0.9), shown=0)
    diagnosis = {"schema": "advreg/diagnosis@1", "verdict": "UNRELIABLE", "claim": ID, "n": 10, "robust_accuracy": 0.9}
    (tmp_path / "a" / "diagnosis.json").write_text(json.dumps(diagnosis))
    assert Page(report.write(tmp_path / "a").read_text()).with_class("in-doubt")
    (tmp_path / "a" / "diagnosis.json").write_text(json.dumps(diagnosis | {"claim": "pgd-40"}))
    assert not Page(report.write(tmp_path / "a").read_text()).with_class("in-doubt")


def test_page_shows_checks_with_their_remedy(tmp_path: Path) -> None:
    check = {
        "name": "black-box",
        "verdict": "suspect",
        "says": "Square breaks more",
        "remedy": "add a black box",
        "measured": 0.1,
    }
    record = results(ID, "linf", 0.1, 0.9) | {
        "verdict": "SUSPECT",
        "checks": [check, check | {"name": "b", "verdict": "pass"}],
    }
    write_evaluation(tmp_path / "a", record, shown=0)
    page = Page(report.write(tmp_path / "a").read_text())
    assert page.words.count("Square breaks more: add a black box.") == 1
    assert page.with_class("verdict-suspect")

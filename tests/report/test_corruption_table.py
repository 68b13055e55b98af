"""The table of accuracy under corruptions in the report: read from corruptions.json, rejected where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advreg import report
from advreg.errors import RunError

from .fake_run import results, write_evaluation
from .markup import Page

FOUND: dict[str, Any] = {
    "schema": "advreg/corruptions@1", "n": 1000, "seed": 0, "clean_accuracy": 0.95, "mean_accuracy": 0.7,
    "severities": [1, 5],
    "corruptions": [
        {"name": "fog", "accuracy": [0.9, 0.5], "mean_accuracy": 0.7},
        {"name": "glass_blur", "accuracy": [0.8, 0.6], "mean_accuracy": 0.7},
    ],
}  # fmt: skip


def write(folder: Path, **changes: Any) -> Path:
    evaluation = write_evaluation(folder / "net", results("linf-0.1-quick@2", "linf", 0.1, 0.5), shown=0)
    (evaluation / "corruptions.json").write_text(json.dumps(FOUND | changes))
    return folder / "net"


def test_page_shows_accuracy_under_every_corruption(tmp_path: Path) -> None:
    words = Page(report.write(write(tmp_path)).read_text()).words
    for text in (
        "Severity 5",
        "fog 90.0% 50.0% 70.0%",
        "glass blur 80.0% 60.0% 70.0%",
        "mean corruption accuracy 70.0%",
    ):
        assert text in words
    assert "--corruptions fog,glass_blur --severities 1,5" in words


def test_page_without_corruptions_has_no_table(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "net", results("linf-0.1-quick@2", "linf", 0.1, 0.5), shown=0)
    assert "corruption" not in Page(report.write(tmp_path / "net").read_text()).words


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "advreg/corruptions@2"},
        {"severities": "1,5"},
        {"mean_accuracy": 1.2},
        {"corruptions": [{"name": "fog", "accuracy": [0.9], "mean_accuracy": 0.9}]},
    ],
)
def test_damaged_corruptions_file_is_rejected(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"corruptions\.json"):
        report.write(write(tmp_path, **changes))

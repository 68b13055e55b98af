"""The leaderboard: rows are ranked only within one protocol, data set, number and seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from advreg.cli.app import app
from advreg.errors import RunError
from advreg.report.leaderboard import leaderboard, write_leaderboard

from .fake_run import results, write_evaluation
from .markup import Page

ID = "linf-0.1-standard@1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven runs: three levels deep, two of equal accuracy, one unreliable, one with other data, one damaged."""
    figures = {"a": 0.5, "deep/er/b": 0.9, "c": 0.9, "d": 0.895}
    for name, robust in figures.items():
        write_evaluation(tmp_path / name, results(ID, "linf", 0.1, robust), shown=0)
    write_evaluation(tmp_path / "masked", results(ID, "linf", 0.1, 0.945) | {"verdict": "UNRELIABLE"}, shown=0)
    other = results(ID, "linf", 0.1, 0.945)
    write_evaluation(tmp_path / "other", other | {"data": other["data"] | {"sha256": "b2" * 32}}, shown=0)
    known = results("linf-0.0313725-standard@1", "linf", 8 / 255, 0.6)
    write_evaluation(tmp_path / "known", known | {"model": {"name": "robustbench:Carmon2019Unlabeled"}}, shown=0)
    write_evaluation(tmp_path / "broken", results(ID, "linf", 0.1, 0.9) | {"n": "many"}, shown=0)
    return tmp_path


def test_ranks_within_a_group(folder: Path) -> None:
    found = leaderboard(folder)
    first = found.groups[0]
    assert [(place.rank, place.row.run) for place in first.places] == [
        (1, "b"), (1, "c"), (3, "d"), (4, "a"), (None, "masked"),
    ]  # fmt: skip
    assert [place.near_best for place in first.places] == [True, True, True, False, False]
    assert [len(group.places) for group in found.groups] == [5, 1, 1]
    assert [name for name, _ in found.left_out] == ["broken"]


def test_page_and_verb(folder: Path) -> None:
    page = Page(write_leaderboard(leaderboard(folder)).read_text())
    assert not page.sources
    assert "59.5%" in page.words
    assert "Left out. broken" in page.words
    done = CliRunner().invoke(app, ["leaderboard", str(folder), "--json"], catch_exceptions=False)
    groups = json.loads(done.stdout)["groups"]
    assert [place["rank"] for place in groups[0]["places"]] == [1, 1, 3, 4, None]
    assert "left out broken" in done.stderr
    shown = CliRunner().invoke(app, ["leaderboard", str(folder)], catch_exceptions=False)
    assert "59.53%" in shown.stdout


def test_folders_without_runs_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no folder at"):
        leaderboard(tmp_path / "none")
    with pytest.raises(RunError, match="holds no evaluated run; run advreg evaluate"):
        leaderboard(tmp_path)

"""Formatting, prose, tables and colours: no figure is rounded into a claim, and every text is readable."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from advreg import report
from advreg.report import comparison_table, formatting, prose, read
from advreg.report.commands import commands
from advreg.report.facts import EvaluationFacts, RunFacts, ThreatFacts

from .fake_run import results, write_evaluation, write_training


def measured(clean: float, robust: float, verdict: str | None = None) -> EvaluationFacts:
    return EvaluationFacts("linf-0.1-quick@2", ThreatFacts("linf", 0.1), 1000, 0, clean, robust, verdict=verdict)


def test_meaning_is_two_sentences() -> None:
    for clean, robust, text in [
        (0.99, 0.95, "still classifies about 95"),
        (0.99, 0.0, "no image"),
        (1.0, 1.0, "all images"),
    ]:
        alone, attacked = prose.meaning(measured(clean, robust))
        assert text in attacked
        assert all(text.count(". ") == 0 and text.endswith(".") for text in (alone, attacked))


@pytest.mark.parametrize(("clean", "robust"), [(1.0, 1.0), (0.0, 0.0), (0.985, 0.945), (0.5, 0.9), (0.335, 0.335)])
def test_shares_of_100_images_add_up_to_100(clean: float, robust: float) -> None:
    parts = prose.shares(measured(clean, robust))
    assert sum(parts) == 100
    assert min(parts) >= 0


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0", "wasserstein"])
def test_description_of_a_threat_holds_its_eps(norm: str) -> None:
    assert "0.25" in prose.threat(ThreatFacts(norm, 0.25))


@pytest.mark.parametrize("eps", [8 / 255, 0.1, 0.3, 1 / 3, 1.0, 0.0, 128 / 255, 12.0])
def test_formatted_eps_is_the_exact_number(eps: float) -> None:
    text = formatting.eps(ThreatFacts("linf", eps))
    top, _, bottom = text.partition("/")
    assert float(top) / float(bottom or 1) == pytest.approx(eps, abs=1e-12)


def test_recorded_command_is_returned_unchanged(tmp_path: Path) -> None:
    command = ["advreg", "evaluate", "a b", "--n", "5"]
    evaluation = replace(measured(1, 1), environment={"command": command})
    (line,) = commands(RunFacts(tmp_path), evaluation)
    assert shlex.split(line) == command


def test_tensors_from_a_program_have_no_command(tmp_path: Path) -> None:
    evaluation = replace(measured(1, 1), data={"name": "tensors", "split": "given"})
    assert commands(RunFacts(tmp_path), evaluation) == []


def test_rows_are_ordered_by_protocol_and_accuracy(tmp_path: Path) -> None:
    for name, robust in [("a", 0.1), ("b", 0.9)]:
        write_evaluation(tmp_path / name, results("linf-0.1-quick@2", "linf", 0.1, robust), shown=0)
    write_training(tmp_path / "c")
    write_evaluation(tmp_path / "a", results("l2-1-quick@2", "l2", 1.0, 0.2), shown=0)
    rows = report.comparison(tmp_path / name for name in "abc")
    assert [(row.run, row.protocol) for row in rows] == [
        ("a", "l2-1-quick@2"),
        ("b", "linf-0.1-quick@2"),
        ("a", "linf-0.1-quick@2"),
        ("c", None),
    ]
    assert rows[1].threat == "linf:0.1"
    assert rows[1].robust_accuracy == 0.9


def test_differences_name_the_reasons() -> None:
    one = comparison_table.ComparisonRow("a", protocol="p@1", n=10, seed=0, data="x")
    assert comparison_table.differences([one, replace(one, run="b"), comparison_table.ComparisonRow("c")]) == []
    assert "protocols" in comparison_table.differences([one, replace(one, protocol="p@2")])[0]
    for change in ({"n": 20}, {"seed": 1}, {"data": "y"}):
        assert "images differ" in comparison_table.differences([one, replace(one, **change)])[0]
    assert "UNRELIABLE" in comparison_table.differences([replace(one, verdict="UNRELIABLE")])[0]


def test_short_names_come_from_protocol_ids() -> None:
    assert [read.short_name(name) for name in ("linf-8/255-strong@12", "mine", "l2-0.5-quick@2")] == [
        "strong",
        "mine",
        "quick",
    ]


def luminance(colour: str) -> float:
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def palette(theme: int) -> dict[str, str]:
    style = files("advreg.report").joinpath("style.css").read_text()
    block = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)[theme]
    return {name: value if len(value) == 7 else "#ffffff" for name, value in re.findall(r"--([\w-]+): (#\w+)", block)}


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(theme: int) -> None:
    colours = palette(theme)
    texts = ["ink", "faint", "robust", "clean", "broken"]
    pairs = [(text, behind) for text in texts for behind in ("surface", "sunken", "paper")]
    pairs += [("good", "good-soft"), ("warn", "warn-soft"), ("bad", "bad-soft"), ("robust", "robust-soft")]
    pairs += [("ink", "robust-soft"), ("surface", "robust"), ("warn", "sunken")]
    weak = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_chart_lines_have_enough_contrast(theme: int) -> None:
    colours = palette(theme)
    lines = ["robust", "clean", "broken", *(f"series-{k}" for k in range(1, 7))]
    assert min(contrast(colours[line], colours["surface"]) for line in lines) >= 3


def mixed(one: str, other: str, share: float) -> str:
    """What color-mix(in srgb, one share, other) shows."""
    pairs = [(int(one[k : k + 2], 16), int(other[k : k + 2], 16)) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_confusion_cells_have_enough_contrast(theme: int) -> None:
    colours = palette(theme)
    for tone, share in (("robust", 0.35), ("broken", 0.45)):
        assert contrast(colours["ink"], mixed(colours[tone], colours["sunken"], share)) >= 4.5


def test_page_holds_the_citation(run: Path) -> None:
    page = report.write(run).read_text()
    assert (
        "linf 0.1, 1,000 test images of mnist, seed 0, protocol linf-0.1-standard@1, TRUSTED, weights 5e5e5e5e5e5e"
        in page
    )


def test_page_reports_class_imbalance_only_where_it_is(tmp_path: Path) -> None:
    record = results("linf-0.1-quick@2", "linf", 0.1, 0.9)
    write_evaluation(tmp_path / "even", record, shown=0)
    record["per_class"][3]["n"] = 7
    write_evaluation(tmp_path / "uneven", record, shown=0)
    even, uneven = (report.write(tmp_path / name).read_text() for name in ("even", "uneven"))
    assert "classes are unequal" not in even.lower()
    assert "Classes are unequal, 100 of 0 and 7 of 3; with each class counted the same" in uneven

"""Reading a run folder: missing parts are allowed; damage raises a one-line error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from advreg.errors import RunError
from advreg.report import read

from .fake_run import examples, results, write_evaluation, write_training

QUICK = "linf-0.1-quick@2"


def evaluated(tmp_path: Path, **changes: Any) -> Path:
    write_evaluation(tmp_path / "a", results(QUICK, "linf", 0.1, 0.9) | changes, shown=0)
    return tmp_path / "a"


def error_of(run: Path) -> str:
    with pytest.raises(RunError) as caught:
        read.run(run)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_complete_run_is_read(run: Path) -> None:
    facts = read.run(run)
    assert [it.protocol for it in facts.evaluations] == ["linf-0.1-standard@1", "l2-1.5-quick@2", QUICK]
    assert [epoch.epoch for epoch in facts.epochs] == list(range(1, 13))
    assert facts.events == ({"event": "resumed", "epoch": 7},)
    assert len(facts.evaluations[0].examples.ids) == 60
    assert facts.evaluations[0].attack_success_rate == pytest.approx(39 / 986)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"schema": "advreg/results@2"}', '{"schema": "advreg/results@1"}', "\xff\x00"]
)
def test_damaged_results_are_rejected_in_one_line(tmp_path: Path, content: str) -> None:
    run = evaluated(tmp_path)
    (run / "evaluation" / QUICK / "results.json").write_bytes(content.encode("latin-1"))
    assert "results.json" in error_of(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("robust_accuracy", 1.2),
        ("robust_accuracy", "0.9"),
        ("robust_accuracy", None),
        ("robust_accuracy", True),
        ("robust_accuracy", float("nan")),
        ("interval", [0.9]),
        ("interval", [0.9, 0.1]),
        ("interval", [0.9, 1.1]),
        ("n", -1),
        ("n", 1.5),
        ("threat", {"norm": "linf"}),
        ("threat", []),
        ("by_attack", {}),
        ("by_attack", [1]),
        ("by_attack", [{"name": "pgd"}]),
        ("verdict", "GOOD"),
        ("flags", []),
    ],
)
def test_impossible_value_is_named_with_its_file(tmp_path: Path, key: str, value: object) -> None:
    message = error_of(evaluated(tmp_path, **{key: value}))
    assert "results.json" in message
    assert "must be" in message
    assert f"{key!r}" in message or key in ("threat", "by_attack")


def test_empty_folder_is_rejected(tmp_path: Path) -> None:
    assert "train or evaluate first" in error_of(tmp_path)
    assert "no run folder" in error_of(tmp_path / "none")


def test_truncated_line_is_the_only_loss(tmp_path: Path) -> None:
    write_training(tmp_path / "a", epochs=3)
    with (tmp_path / "a" / "metrics.jsonl").open("a") as log:
        log.write('{"epoch": 4, "clean_acc')
    with pytest.warns(RuntimeWarning, match="cut by a crash"):
        assert [epoch.epoch for epoch in read.run(tmp_path / "a").epochs] == [1, 2, 3]


def test_repeated_epoch_counts_with_its_last_line(tmp_path: Path) -> None:
    lines = [{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.2}, {"event": "resumed"}, {"epoch": 2, "lr": 0.3}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(epoch.epoch, epoch.lr) for epoch in read.run(tmp_path).epochs] == [(1, 0.1), (2, 0.3)]


def test_diverged_epoch_is_a_gap(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "loss": NaN, "clean_accuracy": 0.1}\n')
    (epoch,) = read.run(tmp_path).epochs
    assert epoch.loss is None
    assert epoch.clean_accuracy == 0.1


@pytest.mark.parametrize("damage", ["truncated", "lacking", "uneven", "nan"])
def test_damaged_examples_are_rejected(tmp_path: Path, damage: str) -> None:
    run = evaluated(tmp_path)
    file = run / "evaluation" / QUICK / "examples.safetensors"
    arrays = examples(6, 0.1)
    if damage == "lacking":
        del arrays["labels"]
    if damage == "uneven":
        arrays["labels"] = arrays["labels"][:5]
    if damage == "nan":
        arrays["clean"] = np.full_like(arrays["clean"], np.nan)
    save_file(arrays, file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:1000])
    assert "examples.safetensors" in error_of(run)

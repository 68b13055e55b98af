"""Batches as a GPU gets them, of several chunks at once: the same examples are attacked, with the same verdicts."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advreg import ThreatModel, evaluate
from advreg.evaluation.batch_sizing import batching_on
from advreg.results.ledger_rows import Batching
from tests.attacks.models import small_cnn
from tests.evaluation.test_evaluate import batch

THREAT = ThreatModel("linf", 0.02)
LARGE = Batching(rows=1000, chunks=2)


def exact(n: int = 2100) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return a float64 model and examples, on which no batch size rounds."""
    x, y = batch(n)
    return small_cnn().double(), (x.double(), y)


def enlarge(monkeypatch: pytest.MonkeyPatch, to: Batching = LARGE) -> None:
    monkeypatch.setattr(importlib.import_module("advreg.evaluation.evaluate"), "batching_on", lambda device: to)


def ledger(folder: Path) -> list[dict[str, object]]:
    lines = next(folder.glob("evaluation/*/ledger.jsonl")).read_text().splitlines()
    return [json.loads(line) for line in lines]


def rounded(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return rows without the header, measured numbers to ten digits: sums over a batch differ in the last."""
    return [{k: round(v, 10) if isinstance(v, float) else v for k, v in row.items()} for row in rows[1:]]


@pytest.mark.parametrize("protocol", ["basic", "strong"])
def test_large_batches_leave_the_rows_of_small_ones(tmp_path, monkeypatch, protocol) -> None:
    model, data = exact()
    small = evaluate(model, data, THREAT, protocol=protocol, out=tmp_path / "small")
    enlarge(monkeypatch)
    large = evaluate(model, data, THREAT, protocol=protocol, out=tmp_path / "large")
    assert rounded(ledger(tmp_path / "large")) == rounded(ledger(tmp_path / "small"))
    assert (large.robust_accuracy, large.forwards, large.backwards) == (
        small.robust_accuracy,
        small.forwards,
        small.backwards,
    )


def test_header_states_large_batches_only(tmp_path, monkeypatch) -> None:
    evaluate(small_cnn(), batch(64), THREAT, out=tmp_path / "small")
    assert "batch_rows" not in ledger(tmp_path / "small")[0]
    enlarge(monkeypatch)
    evaluate(small_cnn(), batch(64), THREAT, out=tmp_path / "large")
    assert ledger(tmp_path / "large")[0] | {"batch_rows": 1000, "batch_chunks": 2} == ledger(tmp_path / "large")[0]


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_resume_keeps_the_batches_of_the_start(tmp_path, monkeypatch, stop) -> None:
    model, data = small_cnn(), batch(2100)
    enlarge(monkeypatch)
    evaluate(model, data, THREAT, protocol="basic", out=tmp_path / "whole")
    reports = iter(range(1, 1000))

    def interrupt(_: object) -> None:
        if next(reports) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, data, THREAT, protocol="basic", out=tmp_path / "cut", on_progress=interrupt)
    enlarge(monkeypatch, Batching())  # the rest runs where batches would be small
    evaluate(model, data, THREAT, protocol="basic", out=tmp_path / "cut")
    whole, cut = (next((tmp_path / name).glob("evaluation/*/ledger.jsonl")) for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_accelerators_get_larger_batches() -> None:
    assert batching_on(torch.device("cpu")) == Batching()
    assert batching_on(torch.device("cuda")).rows > 256

"""The gate on mean scores: a better model is promoted, a worse or equal one is not, and few examples decide nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import advreg

PROTOCOL = "labels-share-linf-0.1-quick@1"


def write_run(folder: Path, clean: np.ndarray, worst: np.ndarray, model: str) -> Path:
    place = folder / "evaluation" / PROTOCOL
    place.mkdir(parents=True)
    head = {"schema": "advreg/ledger@1", "protocol": PROTOCOL, "data": "d", "n": len(clean), "seed": 0, "model": model}
    lines = [json.dumps(head)]
    for name, scores in (("clean", clean), ("apgd-bce", worst)):
        row = {"label": None, "predicted": None, "broken": False, "margin": 0.0}
        lines += [json.dumps({"attack": name, "id": i, **row, "score": float(s)}) for i, s in enumerate(scores)]
    (place / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    figures = {"clean_accuracy": clean.mean(), "robust_accuracy": np.minimum(clean, worst).mean()}
    (place / "results.json").write_text(json.dumps({"protocol": PROTOCOL, "n": len(clean), **figures}))
    return folder


@pytest.mark.parametrize(
    ("n", "clean_gain", "gain", "verdict"),
    [
        (200, 0.0, 0.05, "PROMOTE"),
        (200, 0.0, 0.0, "REFUSED"),
        (200, -0.1, 0.05, "REFUSED"),
        (40, 0.0, 0.05, "UNDERPOWERED"),
    ],
)
def test_scores_are_compared_by_paired_bootstrap(
    tmp_path: Path, n: int, clean_gain: float, gain: float, verdict: str
) -> None:
    rng = np.random.default_rng(0)
    clean, noise = 0.8 + 0.1 * rng.random(n), 0.02 * rng.standard_normal(n)
    worst = clean - 0.3
    old = write_run(tmp_path / "old", clean, worst, "a")
    new = write_run(tmp_path / "new", clean + clean_gain, worst + gain + noise - noise.mean(), "b")
    decision = advreg.gate(old, new)
    assert decision.verdict == verdict, decision.reasons
    names = [test.name for test in decision.tests]
    assert "score under attack, better" in names
    assert "clean score, not worse" in names


def test_a_result_that_contradicts_its_ledger_is_rejected(tmp_path: Path) -> None:
    scores = np.full(120, 0.5)
    run = write_run(tmp_path / "run", scores, scores, "a")
    file = run / "evaluation" / PROTOCOL / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"robust_accuracy": 0.9}))
    with pytest.raises(advreg.errors.RunError, match="do not agree"):
        advreg.gate(run, run)

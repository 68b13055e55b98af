"""The page of a large run stays small: 1,000 colour images, five attacks, 100 classes, 300 epochs, three protocols."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from advreg import report

from .fake_run import curve, results, write_evaluation, write_training

N, CLASSES, SHOWN, SIDE = 1000, 100, 48, 160
PROTOCOLS = (
    ("linf-0.1-standard@1", "linf", 0.1),
    ("linf-0.2-standard@1", "linf", 0.2),
    ("l2-1.5-standard@1", "l2", 1.5),
)


def write_large_run(run: Path) -> Path:
    write_training(run, epochs=300)
    rng = np.random.default_rng(0)
    names = [f"a class with a long name, {k}" for k in range(CLASSES)]
    for protocol, norm, eps in PROTOCOLS:
        record = results(protocol, norm, eps, 0.5, n=N)
        record["data"]["classes"] = names
        record["per_class"] = [
            {"class": name, "n": N // CLASSES, "clean_accuracy": 0.9, "robust_accuracy": 0.5} for name in names
        ]
        folder = write_evaluation(run, record, curve(norm, [0.01 * k for k in range(60)], 0.19, n=N), shown=0)
        save_file(noise(rng, eps), folder / "examples.safetensors")
        (folder / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ledger(rng)))
    return run


def noise(rng: np.random.Generator, eps: float) -> dict[str, np.ndarray]:
    """Examples that no picture format can make small."""
    clean = rng.random((SHOWN, 3, SIDE, SIDE), np.float32)
    moved = np.clip(clean + rng.choice([-eps, eps], clean.shape), 0, 1).astype(np.float32)
    labels = np.arange(SHOWN) % CLASSES
    return {
        "clean": clean, "adversarial": moved, "ids": np.arange(SHOWN), "labels": labels,
        "clean_predicted": labels, "adversarial_predicted": (labels + 1) % CLASSES,
        "clean_confidence": np.full(SHOWN, 0.9, np.float32), "adversarial_confidence": np.full(SHOWN, 0.8, np.float32),
        "distance": np.full(SHOWN, eps), "broken": np.ones(SHOWN, np.uint8), "attack": np.arange(SHOWN) % 4,
    }  # fmt: skip


def ledger(rng: np.random.Generator) -> list[dict]:
    rows: list[dict] = [{"schema": "advreg/ledger@1", "data": "d"}]
    for attack in ("clean", "apgd-ce", "apgd-t", "fab-t", "square"):
        for k in range(N):
            broken = bool(rng.random() < 0.15)
            seen = int(rng.integers(CLASSES)) if broken else k % CLASSES
            rows.append({"attack": attack, "id": k, "label": k % CLASSES, "predicted": seen, "broken": broken})
    return rows


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(write_large_run(tmp_path_factory.mktemp("large") / "run"))


def test_page_of_a_large_run_is_under_3_mb(page: Path) -> None:
    assert 500_000 < page.stat().st_size < 3_000_000


def test_page_of_a_large_run_shows_every_protocol(page: Path) -> None:
    text = page.read_text()
    assert not any(word in text for word in ('src="http', 'href="http', "@import", "url(http"))
    assert text.count("data:image/") >= 3 * 3 * len(PROTOCOLS)

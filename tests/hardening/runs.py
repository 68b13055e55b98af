"""Run folders as `advreg.evaluate` writes them, with the verdicts that a test wants."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

PROTOCOL = "linf-0.1-basic@2"


def write_run(
    folder: Path,
    n: int = 1000,
    wrong: Collection[int] = (),
    broken: Collection[int] = (),
    *,
    protocol: str = PROTOCOL,
    data: str = "d" * 64,
    seed: int = 0,
    model: str | None = None,
    verdict: str | None = None,
) -> Path:
    """Write the results of a model that is wrong on some ids, and broken by an attack on some more."""
    model = model or folder.name
    place = folder / "evaluation" / protocol
    place.mkdir(parents=True)
    header = {"schema": "advreg/ledger@1", "protocol": protocol, "data": data, "n": n, "seed": seed, "model": model}
    clean = [{"attack": "clean", "id": i, "label": i % 10, "broken": i in set(wrong)} for i in range(n)]
    attacked = [
        {"attack": "pgd-40", "id": i, "label": i % 10, "broken": i in set(broken)}
        for i in range(n)
        if i not in set(wrong)
    ]
    lines = [header, *clean, *attacked]
    (place / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lost = set(wrong) | set(broken)
    accuracies = {"clean_accuracy": 1 - len(set(wrong)) / n, "robust_accuracy": 1 - len(lost) / n}
    results = {"schema": "advreg/results@1", "protocol": protocol, "n": n, **accuracies, "verdict": verdict}
    (place / "results.json").write_text(json.dumps(results))
    return folder


def write_json(folder: Path, name: str, **value: object) -> None:
    (folder / name).write_text(json.dumps(value))


def write_certificate(folder: Path, unproved: Collection[int], n: int = 1000, *, data: str = "d" * 64) -> None:
    """Write the ledger of a certification that leaves some ids unproved."""
    place = folder / "evaluation" / "linf-0.1-certified@1"
    place.mkdir(parents=True)
    header = {"schema": "advreg/ledger@1", "protocol": place.name, "data": data, "n": n, "model": folder.name}
    verdicts = ("open" if i in set(unproved) else "proved" for i in range(n))
    rows = [
        {"attack": "certificate", "id": i, "verdict": verdict, "broken": False} for i, verdict in enumerate(verdicts)
    ]
    (place / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [header, *rows]))

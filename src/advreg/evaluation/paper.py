"""What an evaluation writes down while it runs, so that a kill at any moment loses one attack on one chunk at most.

<run>/evaluation/<protocol id>/ledger.jsonl            one row for each example and attack, append-only
                               points/                 adversarial points of the first chunk, until all is done
                               results.json            the figures
                               examples.safetensors    clean and adversarial inputs of the first chunk, for pictures
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from advreg import runtime
from advreg.attacks.judge import logits_of
from advreg.evaluation.examples import CHUNK, Examples
from advreg.evaluation.rows import Row, broken_ids, complete
from advreg.evaluation.summary import Evaluation
from advreg.runs import Ledger, RunFolder

_TIMES = "times.jsonl"  # beside the ledger, for times differ between runs and a ledger's bytes must not


class Paper:
    """The rows so far, in memory and, where a folder is given, on disk."""

    def __init__(self, examples: Examples, stages: list[tuple[str, float]], identity: dict[str, Any]) -> None:
        self.examples, self.stages, self.identity = examples, stages, identity
        self.rows: list[Row] = []
        self.lost: set[int] = set()
        self.seconds: dict[str, float] = defaultdict(float)
        self.points: dict[str, tuple[Tensor, Tensor]] = {}
        self.folder: RunFolder | None = None
        self.ledger: Ledger | None = None
        self.found: list[Row] = []

    @classmethod
    def open(
        cls,
        out: str | Path | None,
        protocol: str,
        stages: list[tuple[str, float]],
        examples: Examples,
        identity: dict[str, Any],
    ) -> Paper:
        """Begin, or go on from what a run folder holds of this very evaluation.

        Raises:
            RunError: the folder cannot be written, or its ledger is of another model, data set or seed.
        """
        paper = cls(examples, stages, identity)
        if out is None:
            return paper
        paper.folder = RunFolder.at(Path(out) / "evaluation" / protocol)
        facts = {**identity, "model": identity["model"]["sha256"]}
        paper.ledger = Ledger.open(
            paper.folder / "ledger.jsonl", protocol=protocol, data=examples.sha256, chunk=CHUNK, **facts
        )
        paper.found = complete(paper.ledger.rows(), stages, len(examples))
        paper.ledger.keep(len(paper.found))
        for took in paper.folder.read_log(_TIMES):
            paper.seconds[took["attack"]] += took["seconds"]
        return paper

    @property
    def total_seconds(self) -> float:
        """Wall time spent so far, by earlier runs too."""
        return sum(self.seconds.values())

    def find(self, stage: str, ids: Tensor) -> list[Row] | None:
        """Return the rows of this attack on this chunk if an earlier run wrote them, or None."""
        inside = set(ids.tolist())
        mine = list(takewhile(lambda row: row["attack"] == stage and row["id"] in inside, self.found))
        self.found = self.found[len(mine) :]
        self._remember(mine)
        return mine or None

    def _remember(self, rows: list[Row]) -> None:
        self.rows += rows
        self.lost |= broken_ids(rows)

    def write(self, stage: str, ids: Tensor, rows: list[Row], points: Tensor, seconds: float) -> None:
        """Write down one attack on one chunk: its points first, for a row promises them."""
        self.seconds[stage] += seconds
        if self.folder is not None and rows and int(ids[0]) < CHUNK:
            mine = torch.tensor([row["id"] for row in rows])
            self.folder.write(f"points/{stage}.safetensors", save({"ids": mine, "x": points.contiguous()}))
        if self.ledger is not None and self.folder is not None and rows:
            self.ledger.append(rows)
            self.folder.append(_TIMES, {"attack": stage, "first": int(ids[0]), "seconds": round(seconds, 4)})
        self._remember(rows)

    def finish(self, evaluation: Evaluation, model: nn.Module) -> None:
        """Write the figures and the pictures' examples."""
        if self.folder is None:
            return
        if (self.folder / "points").is_dir():
            self.folder.write("examples.safetensors", save(_pictures(self, model)))
        examples, described = self.examples, self.identity["model"]
        origin = {"name": examples.name, "split": examples.split, "n": len(examples), "sha256": examples.sha256}
        record = {
            **evaluation.record(),
            "model": {"name": described["name"], "sha256": described["sha256"]},
            "data": {**origin, "classes": list(examples.classes)},
            "environment": runtime.environment(),
        }
        self.folder.write_json("results.json", record)
        shutil.rmtree(self.folder / "points", ignore_errors=True)


def _pictures(paper: Paper, model: nn.Module) -> dict[str, Tensor]:
    """Return clean and adversarial inputs of the first chunk with what the original model says of them."""
    assert paper.folder is not None
    x, y = paper.examples.x[:CHUNK], paper.examples.y[:CHUNK]
    adversarial, attack = x.clone(), torch.full((len(x),), -1)
    for k, (stage, _) in enumerate(paper.stages):
        file = paper.folder / f"points/{stage}.safetensors"
        if file.is_file():
            stored = load_file(file)
            adversarial[stored["ids"]], attack[stored["ids"]] = stored["x"], k - 1
    device = next((p.device for p in model.parameters()), x.device)
    clean_p, adversarial_p = (logits_of(model, points.to(device)).softmax(1).cpu() for points in (x, adversarial))
    lost = torch.tensor([i in paper.lost for i in range(len(x))])
    distance = {row["id"]: row["distance"] for row in paper.rows if row["id"] < CHUNK}
    return {
        "clean": x.contiguous(),
        "adversarial": adversarial,
        "ids": torch.arange(len(x)),
        "labels": y.contiguous(),
        "clean_predicted": clean_p.argmax(1),
        "adversarial_predicted": adversarial_p.argmax(1),
        "clean_confidence": clean_p.amax(1),
        "adversarial_confidence": adversarial_p.amax(1),
        "distance": torch.tensor([distance[i] for i in range(len(x))], dtype=torch.float64),
        "broken": lost.to(torch.uint8),
        "attack": torch.where(lost, attack, -1),
    }

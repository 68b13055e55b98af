"""The journal of a running evaluation: a kill at any moment loses one attack on 256 examples at most.

<run>/evaluation/<protocol id>/ledger.jsonl            one row for each example and attack, append-only
                               points/                 adversarial points of the first 256 examples, until the evaluation ends
                               results.json            the figures
                               examples.safetensors    clean and adversarial inputs of the first 256, for pictures

Each of several processes appends to its own ledger, ``ledger.<rank>.jsonl``. When all have finished, or when the evaluation is
resumed, the main process merges them in the order in which a single process writes.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from advreg import runtime
from advreg.distributed import Ranks
from advreg.errors import ConfigError
from advreg.evaluation.examples import Examples
from advreg.evaluation.picture_tensors import picture_tensors
from advreg.results.evaluation import Evaluation
from advreg.results.ledger_rows import CHUNK, UNIT, Batching, Row, complete_rows
from advreg.runs import Ledger, RunFolder
from advreg.runs.files import read_first, read_lines
from advreg.runs.weights import serialise
from advreg.tasks import CLASSES, Task

_LEDGER = "ledger"
_TIMES = "times"  # in a file of their own: times differ between runs, the bytes of a ledger must not


def recorded_batching(out: str | Path | None, protocol: str) -> Batching | None:
    """Return the batching of an evaluation that was begun in a run folder; None where there is none.

    The rest of it is attacked in the same batches, on whatever device, because kernels round by the size of a batch.

    Args:
        out: run folder, or None.
        protocol: id of the protocol.

    Returns:
        The batching, or None.
    """
    header = None if out is None else read_first(Path(out) / "evaluation" / protocol / f"{_LEDGER}.jsonl")
    return None if header is None else Batching.of_header(header)


class EvaluationJournal:
    """The rows so far, in memory and, where a folder is given, on disk."""

    def __init__(self, examples: Examples, stages: list[tuple[str, float]], identity: dict[str, Any]) -> None:
        self.examples, self.stages = examples, stages
        self.identity = identity
        self.ranks = Ranks()
        self.rows: list[Row] = []
        self.seconds: dict[str, float] = defaultdict(float)
        self.folder: RunFolder | None = None
        self.header: dict[str, Any] = {}
        self.known: dict[tuple[str, int], Row] = {}
        self.ledger: Ledger | None = None

    @classmethod
    @contextmanager
    def open(
        cls,
        out: str | Path | None,
        *,
        protocol: str,
        stages: list[tuple[str, float]],
        examples: Examples,
        identity: dict[str, Any],
        ranks: Ranks,
    ) -> Iterator[EvaluationJournal]:
        """Begin an evaluation, or resume it from its run folder; the folder is locked until the end of the block.

        Args:
            out: run folder; None keeps the rows in memory.
            protocol: id of the protocol.
            stages: name of each attack, and the share of the survivors that it begins with.
            examples: the examples.
            identity: model, number of examples, seed and fast copy, which a resumed ledger must have.
            ranks: which of several processes this is.

        Yields:
            The journal, with the rows that the folder holds.

        Raises:
            RunError: the folder cannot be written or is in use, or its ledger is of another model, data set or seed.
            ConfigError: several processes and no folder.

        Example:
            >>> import torch
            >>> from advreg.evaluation.examples import examples_of
            >>> from advreg.threat import ThreatModel
            >>> examples = examples_of((torch.zeros(2, 4), torch.tensor([0, 1])), None, ThreatModel("linf", 0.1))
            >>> options = {"protocol": "own@1", "stages": [("clean", 1.0)], "identity": {}, "ranks": Ranks()}
            >>> with EvaluationJournal.open(None, examples=examples, **options) as journal:
            ...     len(journal.rows)
            0
        """
        journal = cls(examples, stages, identity)
        if out is None:
            if ranks.world_size > 1:
                raise ConfigError(f"{ranks.world_size} processes share this evaluation; they need a folder: give out")
            yield journal
            return
        journal.ranks, journal.folder = ranks, RunFolder.at(Path(out) / "evaluation" / protocol)
        facts = {**identity, "model": identity["model"]["sha256"]}
        journal.header = {"protocol": protocol, "data": examples.sha256, "chunk": CHUNK, **facts}
        if not ranks.is_main:
            ranks.barrier()
            journal._read()
            yield journal
            return
        with journal.folder.lock():
            journal._merge()
            ranks.barrier()
            journal._read()
            yield journal

    @property
    def total_seconds(self) -> float:
        """Wall time so far, including earlier runs; the sum over all processes."""
        return sum(self.seconds.values())

    def find(self, stage: str, tried: Tensor) -> list[Row] | None:
        """Return the rows of this attack on these examples if an earlier run wrote them, else None."""
        keys = [(stage, i) for i in tried.tolist()]
        if any(key not in self.known for key in keys):
            return None
        mine = [self.known[key] for key in keys]
        self.rows += mine
        return mine

    def write(self, stage: str, tried: Tensor, rows: list[Row], points: Tensor, seconds: float) -> None:
        """Write one attack on some examples of a chunk: points before rows, so that every row on disk has its points.

        Args:
            stage: name of the attack.
            tried: ids of the examples ``(B,)``.
            rows: their rows.
            points: their adversarial points ``(B, ...)``.
            seconds: wall time.
        """
        self.seconds[stage] += seconds
        self.rows += rows
        if self.folder is None:
            return
        first, pictured = int(tried[0]), tried < UNIT
        if bool(pictured.any()):
            stored = {"ids": tried[pictured], "x": points[pictured].contiguous()}
            self.folder.write(f"points/{stage}+{first}.safetensors", save(stored))
        self.ledger = self.ledger or Ledger.open(self.folder / self._own_file(_LEDGER), **self.header)
        self.ledger.append(rows)
        self.folder.append(self._own_file(_TIMES), {"attack": stage, "first": first, "seconds": round(seconds, 4)})

    def close(self) -> None:
        """Wait for the other processes, merge the ledgers, and read all rows."""
        if self.folder is None:
            return
        self.ranks.barrier()
        if self.ranks.is_main:
            self._merge()
        self.ranks.barrier()
        self._read()
        self.rows = list(self.known.values())

    def finish(self, evaluation: Evaluation, model: nn.Module, task: Task = CLASSES) -> None:
        """Write the figures, and the examples for pictures."""
        if self.folder is None or not self.ranks.is_main:
            return
        if (self.folder / "points").is_dir():
            names, points = [name for name, _ in self.stages], self.folder / "points"
            pictures = picture_tensors(model, self.examples, points, names, self.rows, task)
            self.folder.write("examples.safetensors", serialise(pictures))
        examples, described = self.examples, self.identity["model"]
        origin = {"name": examples.name, "split": examples.split, "n": len(examples), "sha256": examples.sha256}
        record = {
            **evaluation.record(),
            "model": {"name": described["name"], "sha256": described["sha256"]},
            "data": {**origin, "classes": list(examples.classes), **examples.description()},
            "environment": runtime.environment(),
        }
        self.folder.write_json("results.json", record)
        shutil.rmtree(self.folder / "points", ignore_errors=True)

    def _own_file(self, name: str) -> str:
        return f"{name}.jsonl" if self.ranks.world_size == 1 else f"{name}.{self.ranks.rank}.jsonl"

    def _read(self) -> None:
        assert self.folder is not None
        rows = Ledger.open(self.folder / f"{_LEDGER}.jsonl", **self.header).rows()
        self.known = {(row["attack"], row["id"]): row for row in rows}
        self.seconds.clear()
        for entry in self.folder.read_log(f"{_TIMES}.jsonl"):
            self.seconds[entry["attack"]] += entry["seconds"]

    def _merge(self) -> None:
        """Merge the files of all processes into one ledger, in the order of a single process, and one log of times."""
        assert self.folder is not None
        ledger = Ledger.open(self.folder / f"{_LEDGER}.jsonl", **self.header)
        parts = sorted(self.folder.path.glob(f"{_LEDGER}.*.jsonl"))
        before = ledger.rows()
        found = before + [row for part in parts for row in Ledger.open(part, **self.header).rows()]
        rows = complete_rows(found, self.stages, len(self.examples))
        if rows != before:
            ledger.replace(rows)
        for part in sorted(self.folder.path.glob(f"{_TIMES}.*.jsonl")):
            for entry in read_lines(part):
                self.folder.append(f"{_TIMES}.jsonl", entry)
            part.unlink()
        for part in parts:
            part.unlink()

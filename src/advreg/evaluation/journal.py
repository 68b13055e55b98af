"""The journal of a running evaluation: a kill at any moment loses one attack on 256 examples at most.

<run>/evaluation/<protocol id>/ledger.jsonl            one row for each example and attack, append-only
                               points/                 adversarial points of the first 256 examples, until the evaluation ends
                               results.json            the figures
                               examples.safetensors    clean and adversarial inputs of the first 256, for pictures

Each of several processes under ``torchrun`` appends to its own ledger, ``ledger.<rank>.jsonl``. When all have finished, or when
the evaluation is resumed, the main process merges them in the order in which a single process writes. A shard appends to
``ledger.<number>-of-<count>.jsonl``, which ``advreg merge`` reads.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from advreg import runtime
from advreg.distributed import SINGLE, Ranks
from advreg.engines import Shard
from advreg.errors import ConfigError
from advreg.evaluation.attack_units import AttackedBatch, Unit
from advreg.evaluation.examples import Examples
from advreg.evaluation.picture_tensors import picture_tensors
from advreg.results.evaluation import Evaluation
from advreg.results.ledger_order import Stage, complete_order
from advreg.results.ledger_rows import CHUNK, CLEAN, UNIT, Batching, Row
from advreg.results.ledger_table import Column, LedgerTable, read_rows_at, read_table, row_text, table_of
from advreg.runs import Ledger, RunFolder
from advreg.runs.files import lock, read_first, read_lines
from advreg.runs.weights import serialise
from advreg.tasks import CLASSES, Task
from advreg.version import __version__

_LEDGER = "ledger"
_TIMES = "times"  # in a file of their own: times differ between runs, the bytes of a ledger must not


def recorded_batching(out: str | Path | None, protocol: str, shard: Shard | None = None) -> Batching | None:
    """Return the batching of an evaluation that was begun in a run folder; None where there is none.

    The rest of it is attacked in the same batches, on whatever device, because kernels round by the size of a batch.

    Args:
        out: run folder, or None.
        protocol: id of the protocol.
        shard: the shard that is evaluated, if it is one.

    Returns:
        The batching, or None.
    """
    name = f"{_LEDGER}.jsonl" if shard is None else shard.file(_LEDGER, "jsonl")
    header = None if out is None else read_first(Path(out) / "evaluation" / protocol / name)
    return None if header is None else Batching.of_header(header)


class EvaluationJournal:
    """The rows so far: in memory, or on disk where a folder is given.

    Attributes:
        examples, stages, identity: what is evaluated.
        seconds: wall time of each attack, including earlier runs and all processes.
        folder: folder of the protocol in the run folder; None keeps the rows in memory.
        started, broken: examples that are begun, and those among them that the model misclassifies or an attack broke.
    """

    def __init__(self, examples: Examples, stages: list[Stage], identity: dict[str, Any]) -> None:
        self.examples, self.stages = examples, stages
        self.identity = identity
        self.seconds: dict[str, float] = defaultdict(float)
        self.folder: RunFolder | None = None
        self.started = self.broken = 0
        self._ranks = SINGLE
        self._part = ""  # of a shard, in the names of its files
        self._header: dict[str, Any] = {}
        self._ledger: Ledger | None = None
        self._files: list[Path] = []
        self._table = table_of([])
        self._finished: Column = np.zeros(len(examples.chunks()), bool)
        self._new: list[Row] = []
        self._shares: dict[int, float] = {}

    @classmethod
    @contextmanager
    def open(
        cls,
        out: str | Path | None,
        *,
        protocol: str,
        stages: list[Stage],
        examples: Examples,
        identity: dict[str, Any],
        ranks: Ranks = SINGLE,
        shard: Shard | None = None,
    ) -> Iterator[EvaluationJournal]:
        """Begin an evaluation, or resume it from its run folder; its files are locked until the end of the block.

        Args:
            out: run folder; None keeps the rows in memory.
            protocol: id of the protocol.
            stages: name of each attack, and the share of the survivors that it begins with.
            examples: the examples.
            identity: model, number of examples, seed and fast copy, which a resumed ledger must have.
            ranks: which of several processes this is.
            shard: which of several shards this is, with a ledger of its own.

        Yields:
            The journal, with the rows that the folder holds.

        Raises:
            RunError: the folder cannot be written or is in use, or its ledger is of another model, data set or seed.
            ConfigError: several processes and no folder.

        Example:
            >>> from advreg.evaluation.examples import examples_of
            >>> from advreg.threat import ThreatModel
            >>> examples = examples_of((torch.zeros(2, 4), torch.tensor([0, 1])), None, ThreatModel("linf", 0.1))
            >>> options = {"protocol": "own@1", "stages": [("clean", 1.0)], "identity": {}}
            >>> with EvaluationJournal.open(None, examples=examples, **options) as journal:
            ...     len(journal.table())
            0
        """
        journal = cls(examples, stages, identity)
        if out is None:
            if ranks.world_size > 1:
                raise ConfigError(f"{ranks.world_size} processes share this evaluation; they need a folder: give out")
            yield journal
            return
        journal._ranks, journal.folder = ranks, RunFolder.at(Path(out) / "evaluation" / protocol)
        facts = {**identity, "model": identity["model"]["sha256"]}
        journal._header = {"protocol": protocol, "data": examples.sha256, "chunk": CHUNK, **facts}
        if shard is not None:
            journal._part = shard.part
            journal._header |= {"shard": str(shard), "advreg": __version__}
        if not ranks.is_main:
            ranks.barrier()
            journal._read()
            yield journal
            return
        with lock(journal.folder / ".".join(["", *filter(None, [journal._part]), "lock"])):
            journal._merge()
            ranks.barrier()
            journal._read()
            yield journal

    @property
    def total_seconds(self) -> float:
        """Wall time so far, including earlier runs; the sum over all processes."""
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """Estimated share of the work that is done."""
        done = int(self._finished.sum()) * CHUNK
        return min(1.0, (done + sum(self._shares.values())) / len(self.examples))

    def work(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, list[AttackedBatch]]]:
        """Yield the units that are not finished, each with the rows that an earlier run wrote.

        Args:
            units: ids of the chunks of each unit.

        Yields:
            Units, with their batches so far.
        """
        chunk = self._table["id"] // CHUNK
        for unit in units:
            chunks = [ids[0] // CHUNK for ids in unit]
            if not self._finished[chunks].all():
                places = np.r_[tuple(slice(*np.searchsorted(chunk, (k, k + 1))) for k in chunks)]
                rows = read_rows_at(self._table.select(places), self._files)
                yield unit, [AttackedBatch("", rows)] if rows else []

    def first_clean_rows(self, count: int) -> list[Row]:
        """Return the rows of the first clean examples on disk.

        Args:
            count: number of rows at most.
        """
        clean = np.flatnonzero(self._table.of(CLEAN))
        first = clean[np.argsort(self._table["id"][clean], kind="stable")[:count]]
        return read_rows_at(self._table.select(first), self._files)

    def write(self, batch: AttackedBatch) -> None:
        """Write one attack on some examples: points before rows, so that every row on disk has its points.

        Args:
            batch: verified rows and points; one without rows ends its unit.
        """
        rows = batch.rows
        size = min(CHUNK, len(self.examples) - batch.unit)
        self._shares[batch.unit] = batch.share * size
        if not rows:
            return
        self.seconds[batch.stage] += batch.seconds
        self.started += len(rows) if batch.stage == CLEAN else 0
        self.broken += sum(row["broken"] for row in rows)
        if self.folder is None:
            self._new += rows
            return
        first = rows[0]["id"]
        if batch.points is not None:
            ids = torch.tensor([row["id"] for row in rows[: len(batch.points)]])
            stored = {"ids": ids, "x": torch.from_numpy(batch.points).contiguous()}
            self.folder.write(f"points/{batch.stage}+{first}.safetensors", save(stored))
        own = self._part or ("" if self._ranks.world_size == 1 else str(self._ranks.rank))
        self._ledger = self._ledger or Ledger.open(self.folder / _file_name(_LEDGER, own), **self._header)
        self._ledger.append(rows)
        entry = {"attack": batch.stage, "first": first, "seconds": round(batch.seconds, 4)}
        self.folder.append(_file_name(_TIMES, own), entry)

    def close(self) -> None:
        """Wait for the other processes, merge the ledgers, and read all rows."""
        if self.folder is None:
            return
        self._ranks.barrier()
        if self._ranks.is_main:
            self._merge()
        self._ranks.barrier()
        self._read()

    def table(self) -> LedgerTable:
        """Return all rows as columns, in the order of a single process."""
        return table_of(self._new) if self.folder is None else self._table

    def finish(self, evaluation: Evaluation, model: nn.Module, task: Task = CLASSES) -> None:
        """Write the figures, and the examples for pictures.

        Args:
            evaluation: the figures.
            model: the original.
            task: what an output is worth.
        """
        if self.folder is None or not self._ranks.is_main:
            return
        self.write_pictures(model, task)
        self.folder.write_json("results.json", self.record(evaluation))
        shutil.rmtree(self.folder / "points", ignore_errors=True)

    def write_pictures(self, model: nn.Module, task: Task = CLASSES) -> None:
        """Write clean and adversarial inputs of the first 256 examples.

        Args:
            model: the original.
            task: what an output is worth.
        """
        if self.folder is None or not (self.folder / "points").is_dir():
            return
        names = [name for name, _ in self.stages]
        rows = read_rows_at(self._table.select(self._table["id"] < UNIT), self._files)
        pictures = picture_tensors(model, self.examples, self.folder / "points", names, rows, task)
        self.folder.write("examples.safetensors", serialise(pictures))

    def record(self, evaluation: Evaluation) -> dict[str, Any]:
        """Return the figures with model, data and environment, in the form of results.json.

        Args:
            evaluation: the figures.
        """
        return {**evaluation.record(), **self.origin(), "environment": runtime.environment()}

    def origin(self) -> dict[str, Any]:
        """Return model and data of the evaluation in the form of results.json."""
        examples, described = self.examples, self.identity["model"]
        origin = {"name": examples.name, "split": examples.split, "n": len(examples), "sha256": examples.sha256}
        return {
            "model": {"name": described["name"], "sha256": described["sha256"]},
            "data": {**origin, "classes": list(examples.classes), **examples.description()},
        }

    def _read(self) -> None:
        """Read the rows of complete units, and what they add up to."""
        assert self.folder is not None
        self._files = [self.folder / _file_name(_LEDGER, self._part)]
        Ledger.open(self._files[0], **self._header)
        table = read_table(*self._files)
        order, self._finished = complete_order(table, self.stages, len(self.examples))
        self._table, self._shares = table.select(order), {}
        self.started, self.broken = int(self._table.of(CLEAN).sum()), len(self._table.broken_ids)
        self.seconds.clear()
        for entry in self.folder.read_log(_file_name(_TIMES, self._part)):
            self.seconds[entry["attack"]] += entry["seconds"]

    def _merge(self) -> None:
        """Merge the files of all processes into one ledger, in the order of a single process, and one log of times."""
        assert self.folder is not None
        main = self.folder / _file_name(_LEDGER, self._part)
        parts = [] if self._part else _files_of_ranks(self.folder.path, _LEDGER)
        for file in (main, *parts):
            Ledger.open(file, **self._header)
        table = read_table(main, *parts)
        order, _ = complete_order(table, self.stages, len(self.examples))
        if parts or not np.array_equal(order, np.arange(len(table))):
            Ledger(main).replace_lines(row_text(table.select(order), [main, *parts]))
        for log in [] if self._part else _files_of_ranks(self.folder.path, _TIMES):
            for entry in read_lines(log):
                self.folder.append(_file_name(_TIMES), entry)
            log.unlink()
        for part in parts:
            part.unlink()


def _file_name(name: str, part: str = "") -> str:
    return f"{name}.{part}.jsonl" if part else f"{name}.jsonl"


def _files_of_ranks(folder: Path, name: str) -> list[Path]:
    """Return the logs of the processes that share an evaluation; those of shards are merged by `advreg merge`."""
    return sorted(file for file in folder.glob(f"{name}.*.jsonl") if file.suffixes[-2][1:].isdigit())

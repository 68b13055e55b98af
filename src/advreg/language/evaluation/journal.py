"""The rows of an evaluation on disk; an interrupted evaluation resumes after its last complete chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advreg.language.evaluation.context import Row
from advreg.language.evaluation.tasks import EvaluationTask
from advreg.runs import Ledger, RunFolder

LEDGER = "ledger.jsonl"
_TIMES = "times.jsonl"


class Journal:
    """Rows of an evaluation in memory and, with a folder, on disk.

    Attributes:
        folder: folder of the evaluation; None keeps everything in memory.
        rows: rows of this evaluation so far, in order.
        seconds: wall time so far, earlier runs included.
    """

    def __init__(
        self,
        folder: RunFolder | None = None,
        ledger: Ledger | None = None,
        recorded: Sequence[Row] = (),
        seconds: float = 0.0,
    ) -> None:
        self.folder, self.seconds = folder, seconds
        self.rows: list[Row] = []
        self._ledger = ledger
        self._recorded = {_key(row): row for row in recorded}

    def find(self, task: EvaluationTask, items: Sequence[Any]) -> list[Row] | None:
        """Return the rows of these prompts if an earlier run wrote all of them, else None.

        Args:
            task: the task.
            items: prompts of the task.
        """
        keys = [(task.metric, task.attack, item.id) for item in items]
        return [self._recorded[key] for key in keys] if all(key in self._recorded for key in keys) else None

    def write(self, task: EvaluationTask, rows: Sequence[Row], seconds: float) -> None:
        """Append a chunk of rows and the wall time it took.

        Args:
            task: the task.
            rows: rows of its prompts.
            seconds: wall time.
        """
        self.seconds += seconds
        if self.folder is not None and self._ledger is not None:
            self._recorded |= {_key(row): row for row in rows}
            self._ledger.append(rows)
            self.folder.append(_TIMES, {"stage": task.name, "seconds": round(seconds, 4)})

    def replace(self, rows: Sequence[Row]) -> None:
        """Replace recorded rows of the same prompts, in memory and on disk.

        Args:
            rows: rows with verdicts that were missing.
        """
        self._recorded |= {_key(row): row for row in rows}
        if self._ledger is not None:
            self._ledger.replace(self._recorded.values())


def _key(row: Row) -> tuple[str, str, int]:
    return row["axis"], row["attack"], row["id"]


@contextmanager
def open_journal(path: Path | None, identity: Mapping[str, str | int]) -> Iterator[Journal]:
    """Open the journal of an evaluation, and lock its folder until the context ends.

    Args:
        path: folder of the evaluation; None for a journal in memory.
        identity: model, data and settings that the rows belong to.

    Raises:
        RunError: the folder belongs to another evaluation, is in use, or cannot be written.
    """
    if path is None:
        yield Journal()
        return
    folder = RunFolder.at(path)
    with folder.lock():
        ledger = Ledger.open(folder / LEDGER, **identity)
        rows = ledger.rows()
        complete = _complete_chunks(rows)
        if complete != rows:
            ledger.replace(complete)
        yield Journal(folder, ledger, complete, sum(line["seconds"] for line in folder.read_log(_TIMES)))


def _complete_chunks(rows: Sequence[Row]) -> list[Row]:
    """Return the rows up to the last complete chunk; a crash can cut a chunk short."""
    if rows and rows[-1]["last"]:
        return list(rows)
    ends = [index for index, row in enumerate(rows) if row["last"]]
    return list(rows[: ends[-1] + 1]) if ends else []

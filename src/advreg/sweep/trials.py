"""Where trials come from and where their rows go: a grid in the sweep's folder, which one process at a time works on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from advreg.runs import RunFolder
from advreg.sweep.space import Setting

Row = dict[str, Any]
LOG = "trials.jsonl"


class TrialSource(Protocol):
    """Gives out settings and keeps the rows of all processes that share it."""

    def rows(self) -> list[Row]:
        """Return the rows of all trainings so far, of other processes too."""

    def take(self) -> Setting | None:
        """Return a setting to train, one that an interrupted process of this folder left first; None at the end."""

    def add(self, row: Row) -> None:
        """Keep a row; the setting that was taken last is not finished by it."""

    def finish(self, setting: Setting) -> None:
        """Mark a setting as finished, with the rows that were added."""


class GridInFolder:
    """A grid with its rows as lines of ``trials.jsonl``.

    Args:
        folder: folder of the sweep, locked by this process.
        settings: the grid.
        seeds: seeds of each setting.
    """

    def __init__(self, folder: RunFolder, settings: Sequence[Setting], seeds: Sequence[int]) -> None:
        self.folder, self.settings = folder, settings
        self.seeds = seeds
        self._finished: list[Setting] = []

    def rows(self) -> list[Row]:
        """Return the rows in the folder."""
        return self.folder.read_log(LOG)

    def take(self) -> Setting | None:
        """Return the first setting of the grid that was not finished by this process."""
        return next((setting for setting in self.settings if setting not in self._finished), None)

    def add(self, row: Row) -> None:
        """Append a row."""
        self.folder.append(LOG, row)

    def finish(self, setting: Setting) -> None:
        """Go on to the next setting."""
        self._finished.append(setting)

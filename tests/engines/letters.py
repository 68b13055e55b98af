"""A unit of work without torch, so that a worker process starts in a tenth of a second: the letters of a word."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from advreg.errors import ModelError


def spell(unit: str, done: Sequence[str]) -> Iterator[str]:
    """Yield the letters of a word that are missing."""
    yield from unit[len(done) :]


class Dying:
    """Spells, and leaves a note of every letter; the worker dies before some letters, once each."""

    def __init__(self, folder: Path, deaths: Sequence[str]) -> None:
        self.folder, self.deaths = str(folder), tuple(deaths)

    def __call__(self, unit: str, done: Sequence[str]) -> Iterator[str]:
        """Yield the missing letters, or die."""
        for letter in unit[len(done) :]:
            death = Path(self.folder, f"death-{letter}")
            if letter in self.deaths and not death.exists():
                death.touch()
                time.sleep(0.05)  # what was sent has time to arrive
                os._exit(9)
            with Path(self.folder, "letters").open("a") as notes:
                notes.write(letter)
            yield letter


def die(unit: str, done: Sequence[str]) -> Iterator[str]:
    """Kill the worker, always."""
    os._exit(9)
    yield unit


def refuse(unit: str, done: Sequence[str]) -> Iterator[str]:
    """Fail as a model does."""
    raise ModelError(f"no letters in {unit}")
    yield unit

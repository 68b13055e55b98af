"""What training tells whoever watches it: frozen records handed to a callback, so that the library prints nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LanguageStarted:
    """Training is about to begin, or to go on.

    Attributes:
        out: the run folder.
        step, steps: how many steps are done, and how many there are in all.
        left_out: examples that were longer than data.tokens.
    """

    out: Path
    step: int
    steps: int
    left_out: int


@dataclass(frozen=True)
class LanguageStep:
    """A step is done; the loss is the whole one, of this step."""

    step: int
    steps: int
    loss: float
    seconds_left: float


@dataclass(frozen=True)
class Written:
    """What was reached is on the disk; the record is its line of metrics.jsonl."""

    step: int
    steps: int
    record: dict[str, Any]


@dataclass(frozen=True)
class CollapseGuarded:
    """The guard found something wrong: what it saw, and what it did about it."""

    step: int
    said: str
    action: str


@dataclass(frozen=True)
class LanguageFinished:
    """Training is complete; the run folder holds the weights of this step."""

    step: int
    steps: int


Event = LanguageStarted | LanguageStep | Written | CollapseGuarded | LanguageFinished
OnEvent = Callable[[Event], None]

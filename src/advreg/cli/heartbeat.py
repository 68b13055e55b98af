"""Progress where no bar can be drawn, as in a log file: one line every 10 seconds, none for what is done sooner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from advreg.cli.tables import minutes

EVERY = 10.0
"""Seconds between two lines."""

_SETTLED = 1.0  # seconds in which a resumed job catches up, and which say nothing about its pace
_LOOK = 0.5  # seconds between two looks at the clock


@dataclass(frozen=True)
class ProgressState:
    """How far a job is.

    Attributes:
        what: it does now.
        far: how far that is, in words.
        share: of the whole work that is done, 0 to 1.
        robust: robust accuracy so far; None where nothing was measured.
    """

    what: str
    far: str
    share: float
    robust: float | None = None


class LineProgress:
    """Writes a line about the latest state whenever 10 seconds have passed since the last one.

    Args:
        say: writes a line.
        label: of the job.
        clock: returns seconds.

    Example:
        >>> now = [0.0]
        >>> lines = LineProgress(print, "evaluating", clock=lambda: now[0])
        >>> lines.update(ProgressState("apgd-ce", "256 of 1,000 examples", 0.25, 0.92))
        >>> now[0] = 10.0
        >>> lines.tick()
        evaluating: apgd-ce, 256 of 1,000 examples, robust so far 92.0%, 10 s so far
    """

    def __init__(self, say: Callable[[str], None], label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.say, self.label, self.clock = say, label, clock
        self.began = self.last = clock()
        self.base = (self.began, 0.0)
        self.state: ProgressState | None = None

    def update(self, state: ProgressState) -> None:
        """Remember how far the job is, and write a line if it is time to."""
        now = self.clock()
        if now - self.began < _SETTLED:
            self.base = (now, state.share)
        self.state = state
        self.tick()

    def tick(self) -> None:
        """Write a line if 10 seconds have passed since the last one."""
        now = self.clock()
        if self.state is not None and now - self.last >= EVERY:
            self.last = now
            self.say(self.line(self.state, now))

    def line(self, state: ProgressState, now: float) -> str:
        """Return the line about a state."""
        parts = [state.what, state.far]
        if state.robust is not None:
            parts.append(f"robust so far {state.robust:.1%}")
        parts.append(f"{minutes(now - self.began)} so far")
        left = self._left(state.share, now)
        return f"{self.label}: {', '.join(parts)}" + ("" if left is None else f", about {minutes(left)} left")

    def _left(self, share: float, now: float) -> float | None:
        """Return the seconds left at the pace so far; None before there is one."""
        since, done = self.base
        gained = share - done
        return (1 - share) * (now - since) / gained if gained > 0 else None


@contextmanager
def line_progress(lines: LineProgress) -> Iterator[None]:
    """Let lines appear inside the block even while one step of the job takes long."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK):
            lines.tick()

    thread = threading.Thread(target=watch, daemon=True, name="advreg-progress")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

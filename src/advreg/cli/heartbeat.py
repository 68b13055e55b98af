"""Progress without a terminal, as in a log file: one line every 10 seconds, and none for jobs that end sooner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from advreg.cli.tables import minutes

EVERY = 10.0
"""Seconds between two lines."""

_CATCH_UP = 1.0  # seconds in which a resumed job skips finished work; they are left out of the pace
_POLL = 0.5  # seconds between two readings of the clock


@dataclass(frozen=True)
class ProgressState:
    """Progress of a job.

    Attributes:
        step: the current step of the job.
        amount: the amount done so far, as text.
        share: share of the whole work that is done, 0 to 1.
        robust: robust accuracy so far; None where none was measured.
    """

    step: str
    amount: str
    share: float
    robust: float | None = None


class LineProgress:
    """Writes a line about the latest state every 10 seconds.

    Args:
        write: function that writes a line.
        label: name of the job.
        clock: function that returns seconds.

    Example:
        >>> now = [0.0]
        >>> lines = LineProgress(print, "evaluating", clock=lambda: now[0])
        >>> lines.update(ProgressState("apgd-ce", "256 of 1,000 examples", 0.25, 0.92))
        >>> now[0] = 10.0
        >>> lines.tick()
        evaluating: apgd-ce, 256 of 1,000 examples, robust so far 92.0%, 10 s so far
    """

    def __init__(self, write: Callable[[str], None], label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.write = write
        self.label = label
        self.clock = clock
        self.started = self.last_line = clock()
        self.pace_from = (self.started, 0.0)
        self.state: ProgressState | None = None

    def update(self, state: ProgressState) -> None:
        """Store the state of the job, and write a line if 10 seconds have passed since the last one."""
        now = self.clock()
        if now - self.started < _CATCH_UP:
            self.pace_from = (now, state.share)
        self.state = state
        self.tick()

    def tick(self) -> None:
        """Write a line if 10 seconds have passed since the last one."""
        now = self.clock()
        if self.state is not None and now - self.last_line >= EVERY:
            self.last_line = now
            self.write(self.line(self.state, now))

    def line(self, state: ProgressState, now: float) -> str:
        """Format the line about a state.

        Args:
            state: the state.
            now: reading of the clock in seconds.
        """
        parts = [state.step, state.amount]
        if state.robust is not None:
            parts.append(f"robust so far {state.robust:.1%}")
        parts.append(f"{minutes(now - self.started)} so far")
        left = self._seconds_left(state.share, now)
        return f"{self.label}: {', '.join(parts)}" + ("" if left is None else f", about {minutes(left)} left")

    def _seconds_left(self, share: float, now: float) -> float | None:
        """Return the seconds left at the pace so far; None while there is no pace."""
        since, done = self.pace_from
        gained = share - done
        return (1 - share) * (now - since) / gained if gained > 0 else None


@contextmanager
def line_progress(lines: LineProgress) -> Iterator[None]:
    """Write lines inside the block also while one step of the job takes longer than 10 seconds.

    Args:
        lines: receives a tick twice a second from a thread.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL):
            lines.tick()

    thread = threading.Thread(target=watch, daemon=True, name="advreg-progress")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

"""Rate limits: one token bucket per API token."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Buckets:
    """Token buckets by name, each refilled at a steady rate.

    Args:
        rate: examples per second.
        burst: size of a bucket.
        clock: returns seconds.
        levels: name -> level and time of the last change.
        turn: serialises the threads.

    Example:
        >>> seconds = iter([0.0, 0.0, 0.5])
        >>> buckets = Buckets(rate=2, burst=1, clock=lambda: next(seconds))
        >>> buckets.take("ann"), buckets.take("ann"), buckets.take("ann")
        (0.0, 0.5, 0.0)
    """

    rate: float
    burst: float
    clock: Callable[[], float] = time.monotonic
    levels: dict[str, tuple[float, float]] = field(default_factory=dict)
    turn: threading.Lock = field(default_factory=threading.Lock)

    def take(self, name: str, count: float = 1) -> float:
        """Take from a bucket and return 0, or take nothing and return the seconds until enough is there.

        Args:
            name: the bucket.
            count: number of examples.
        """
        with self.turn:
            now = self.clock()
            level, at = self.levels.get(name, (self.burst, now))
            level = min(self.burst, level + (now - at) * self.rate)
            if level < count:
                self.levels[name] = (level, now)
                return (count - level) / self.rate
            self.levels[name] = (level - count, now)
            return 0.0

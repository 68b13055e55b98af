"""Rate limits: a bucket for each API token, and for each address that sends wrong tokens."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_MOST = 10_000  # buckets in memory; beyond it the full ones and those longest unused are forgotten


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
            level, now = self._level(name)
            enough = level >= count
            self.levels.pop(name, None)  # the dictionary is ordered by last use
            self.levels[name] = (level - count if enough else level, now)
            self._forget(now)
            return 0.0 if enough else (count - level) / self.rate

    def wait(self, name: str, count: float = 1) -> float:
        """Return the seconds until a bucket holds enough; nothing is taken.

        Args:
            name: the bucket.
            count: number of examples.
        """
        with self.turn:
            return max(count - self._level(name)[0], 0.0) / self.rate

    def _level(self, name: str) -> tuple[float, float]:
        """Return the present level of a bucket, and the time."""
        now = self.clock()
        level, at = self.levels.get(name, (self.burst, now))
        return min(self.burst, level + (now - at) * self.rate), now

    def _forget(self, now: float) -> None:
        if len(self.levels) <= _MOST:
            return
        for name in [name for name, (level, at) in self.levels.items() if level + (now - at) * self.rate >= self.burst]:
            del self.levels[name]
        for name in list(self.levels)[: max(len(self.levels) - _MOST + _MOST // 10, 0)]:
            del self.levels[name]


class FailedLogins:
    """Wrong tokens: how many one address, and everyone with one token, may send in a minute.

    Example:
        >>> failed = FailedLogins(per_minute=1, clock=lambda: 0.0)
        >>> failed.count("192.0.2.1", "guess")
        >>> failed.wait("192.0.2.1", "other"), failed.wait("192.0.2.2", "guess"), failed.wait("192.0.2.2", "other")
        (60.0, 60.0, 0.0)
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.buckets = Buckets(per_minute / 60, per_minute, clock)

    def wait(self, address: str, token: str) -> float:
        """Return the seconds until this address may try this token.

        Args:
            address: see `advreg.hardening.service.connections.address_of`.
            token: the token as the client sent it.
        """
        return max(self.buckets.wait(name) for name in _names(address, token))

    def count(self, address: str, token: str) -> None:
        """Count a wrong token.

        Args:
            address: the address that sent it.
            token: the token as the client sent it.
        """
        for name in _names(address, token):
            self.buckets.take(name)


def _names(address: str, token: str) -> tuple[str, str]:
    return f"address {address}", f"token {hashlib.sha256(token.encode()).hexdigest()}"

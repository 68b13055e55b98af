"""Fair comparison on a noisy machine: rounds interleaved, ratios taken pair by pair inside a round, spread shown."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
Timed = tuple[float, T]


@dataclass(frozen=True)
class Spread:
    """The median of some measurements, and the smallest and largest of them."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}-{self.high:{spec}})"


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of one or more measurements."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """Return how many times longer the first took than the second, round by round: what slows a round slows both.

    Raises:
        ValueError: the two were not measured in the same rounds.
    """
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def timed(work: Callable[[], T]) -> Timed[T]:
    """Return how many seconds the work took, and its result."""
    gc.collect()  # or one competitor would pay for another's garbage
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def interleaved(competitors: Mapping[str, Callable[[int], T]], rounds: int) -> dict[str, list[T]]:
    """Let every competitor do every round, A B C, B C A, C A B ...: nobody always comes first.

    Args:
        competitors: each called with the number of the round.
        rounds: how many.

    Returns:
        For each competitor its results in the order of the rounds.
    """
    results: dict[str, list[T]] = {name: [] for name in competitors}
    names = list(competitors)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(competitors[name](number))
    return results

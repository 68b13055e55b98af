"""Units in the order in which workers take them, those of lost workers first, with the results that arrived."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from advreg.engines.in_process import Work
from advreg.errors import RunError

_MOST_LOSSES = 3  # workers that one result may cost: it is then the unit that kills them

Item = tuple[Any, Sequence[Any]]


class UnitQueue:
    """Units that no worker runs at the moment.

    Example:
        >>> queue = UnitQueue([("a", []), ("b", [])])
        >>> unit, done = queue.take()
        >>> queue.put_back(unit, ["a0"])
        >>> queue.take(), queue.take(), queue.take()
        (('a', ['a0']), ('b', []), None)
    """

    def __init__(self, work: Work) -> None:
        self._work = iter(work)
        self._lost: deque[Item] = deque()
        self._losses: dict[tuple[str, int], int] = {}

    def take(self) -> Item | None:
        """Return the next unit with its results so far, or None when all are taken."""
        return self._lost.popleft() if self._lost else next(self._work, None)

    def put_back(self, unit: Any, done: Sequence[Any]) -> None:
        """Take back the unit of a lost worker.

        Args:
            unit: the unit.
            done: its results so far.

        Raises:
            RunError: three workers died at the same place of the unit.
        """
        place = repr(unit), len(done)
        self._losses[place] = self._losses.get(place, 0) + 1
        if self._losses[place] >= _MOST_LOSSES:
            raise RunError(
                f"{_MOST_LOSSES} workers died in the same unit of work ({place[0][:60]}); is memory short? "
                "Results so far are kept: run the command again, with fewer workers"
            )
        self._lost.append((unit, done))

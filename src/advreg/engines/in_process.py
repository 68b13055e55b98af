"""The protocol of every engine: run units of work, yield their results as they come, and repeat no finished result.

A unit is anything that can be pickled, such as the ids of some examples. A unit gives several results, one after another. It
receives those that it gave before: when its worker dies, the next worker continues behind the last result that arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

RunUnit = Callable[[Any, Sequence[Any]], Iterator[Any]]
"""``(unit, results so far) -> further results``, in a fixed order."""

Work = Iterable[tuple[Any, Sequence[Any]]]
"""Units, each with the results that it has already; read as workers become free."""

MapUnits = Callable[[Work, RunUnit], Iterator[Any]]
"""An engine: ``(work, run_unit) -> results`` of all units, in the order in which they arrive."""


def run_in_process(work: Work, run_unit: RunUnit) -> Iterator[Any]:
    """Run the units one after another in this process.

    Args:
        work: units, each with its results so far.
        run_unit: yields the further results of a unit.

    Yields:
        Results.

    Example:
        >>> list(run_in_process([("ab", []), ("cd", ["c"])], lambda unit, done: iter(unit[len(done):])))
        ['a', 'b', 'd']
    """
    for unit, done in work:
        yield from run_unit(unit, done)

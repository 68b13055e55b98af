"""The training loop: rounds until training is complete, each written before the next one begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from advreg.plugins import first_line
from advreg.trainer.events import Checkpointed, Failed, Finished, OnEvent, Started

P = TypeVar("P")


def run_rounds(
    progress: P,
    started: Started,
    emit: OnEvent,
    *,
    is_done: Callable[[P], bool],
    train_round: Callable[[P], P],
    commit: Callable[[P], Checkpointed],
    finish: Callable[[P], Finished],
) -> P:
    """Train round after round and commit each; return the last progress.

    Args:
        progress: progress after the last complete round, of which the loop knows nothing else.
        started: the first event.
        emit: called with each event.
        is_done: returns whether no round is left.
        train_round: trains one round; returns the progress after it.
        commit: writes the progress; returns the event of the round.
        finish: returns the last event.

    Returns:
        The progress after the last round.

    Raises:
        BaseException: any that a function raises, after `Failed` was emitted.

    Example:
        >>> from pathlib import Path
        >>> seen = []
        >>> run_rounds(
        ...     0, Started(Path("run"), epochs=2, steps=5), seen.append,
        ...     is_done=lambda epoch: epoch == 2, train_round=lambda epoch: epoch + 1,
        ...     commit=lambda epoch: Checkpointed(epoch, 2, 5, 5, {"epoch": epoch}),
        ...     finish=lambda epoch: Finished(2, epoch, 5, 5),
        ... )
        2
        >>> [type(event).__name__ for event in seen]
        ['Started', 'Checkpointed', 'Checkpointed', 'Finished']
    """
    with emitting_failure(emit):
        emit(started)
        while not is_done(progress):
            progress = train_round(progress)
            emit(commit(progress))
    emit(finish(progress))
    return progress


@contextmanager
def emitting_failure(emit: OnEvent) -> Iterator[None]:
    """Emit `Failed` where the block raises, so that loggers close what they have open.

    Args:
        emit: called with the event.
    """
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # the first error is the one to raise
            emit(Failed(first_line(error)))
        raise


def remaining_seconds(start: float, done: int, left: int) -> float:
    """Return the estimate for what is left, at the pace since ``start``.

    Args:
        start: ``time.perf_counter()`` at the start.
        done: steps or epochs since, at least 1.
        left: steps or epochs that are left.

    Example:
        >>> remaining_seconds(time.perf_counter(), done=3, left=0)
        0.0
    """
    return (time.perf_counter() - start) / done * left

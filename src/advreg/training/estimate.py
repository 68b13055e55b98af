"""How long training will take, measured on a few steps of a copy before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from statistics import median

from advreg import runtime
from advreg.training.session import Session
from advreg.training.step import take_step
from advreg.training.validation import CHUNK, validate

_STEPS = 6


def estimated_seconds(session: Session, epochs: int) -> float:
    """Return the seconds that ``epochs`` more epochs will take, validation included.

    The steps are taken by a copy of the model, and each epoch seeds its own random draws, so a run that was estimated
    ends with the same bytes as one that was not.
    """
    rehearsal = session.rehearsal()
    rehearsal.model.train()
    batches = list(islice(rehearsal.batches.epoch(0), _STEPS))
    steps = [_timed(session, lambda batch=batch: take_step(rehearsal, batch)) for batch in batches]  # type: ignore[misc]
    step = median(steps[1:] or steps)  # the first one warms up
    return epochs * (step * len(session.batches) + _validation_seconds(rehearsal))


def _validation_seconds(session: Session) -> float:
    if session.held is None:
        return 0.0
    some = session.held.select(range(min(CHUNK, len(session.held))))
    steps = session.config.train.validation_steps
    seconds = _timed(session, lambda: validate(session.model, some, session.adversary, steps))
    return seconds * len(session.held) / len(some)


def _timed(session: Session, work: Callable[[], object]) -> float:
    runtime.synchronize(session.device)
    start = time.perf_counter()
    work()
    runtime.synchronize(session.device)
    return time.perf_counter() - start

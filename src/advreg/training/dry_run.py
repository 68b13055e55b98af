"""Checks before training: a few steps on a copy find errors and estimate the duration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from statistics import median

from advreg import runtime
from advreg.data.loader import own_part
from advreg.errors import AdvregError, ConfigError
from advreg.module_modes import train_mode
from advreg.plugins import first_line
from advreg.trainer.moment import Moment
from advreg.training.setup import TrainState
from advreg.training.step import take_step
from advreg.training.validation import CHUNK, validate

_STEPS = 6
_EXAMPLES = 4


def dry_run(session: TrainState) -> bool:
    """Return whether some weight gets no gradient, by one step with a copy on a few examples.

    Errors are raised here, before anything is written.

    Args:
        session: the run; it does not change.

    Returns:
        True if some weight gets no gradient.

    Raises:
        AdvregError: model, recipe, policy and attack do not fit each other, or cannot train on a single example.
    """
    trial, train = session.clone_for_dry_run(), session.config.train
    train_mode(trial.model, freeze_batchnorm=train.freeze_batchnorm)
    moment = Moment(1, 0, train.epochs * session.steps)
    with _compiling(wanted=train.compile):
        take_step(trial, session.batches.first(_EXAMPLES * train.accumulate), moment)
    if _smallest_part(session) == 1:
        _try_one(trial, moment)
    return any(weight.requires_grad and weight.grad is None for weight in trial.model.parameters())


@contextmanager
def _compiling(*, wanted: bool) -> Iterator[None]:
    """Turn an error of torch's compiler, such as a missing C++ compiler, into one line."""
    try:
        yield
    except RuntimeError as cause:
        if not (wanted and _is_of_compiling(cause)):
            raise
        reason = first_line(getattr(cause, "inner_exception", cause))
        raise ConfigError(
            f"train.compile is true, but torch cannot compile here: {reason}; fix that, or set it to false"
        ) from cause


def _is_of_compiling(error: RuntimeError) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import, so only after an error

    return isinstance(error, TorchDynamoException)


def _smallest_part(session: TrainState) -> int:
    """Return the smallest number of examples in one backward: in the last batch, or in the last part of any batch."""
    world, rows = session.ranks.world_size, session.batches.rows(1)
    shares = [own_part(batch, (rank, world))[0] for batch in (rows[0], rows[-1]) for rank in range(world)]
    return min(len(part) for share in shares for part in share.chunk(session.config.train.accumulate))


def _try_one(trial: TrainState, moment: Moment) -> None:
    """Raise if the network cannot train on a single example: BatchNorm cannot normalise a single value."""
    train = trial.config.train
    parts = train.accumulate * trial.ranks.world_size
    try:
        take_step(trial, trial.batches.first(1), moment)
    except AdvregError:
        raise
    except (ValueError, RuntimeError) as cause:
        raise ConfigError(
            f"{len(trial.batches.dataset)} training images with train.batch_size = {train.batch_size}, in "
            f"{parts} part(s), leave one example alone, from which the network cannot learn "
            f"({first_line(cause)}); change train.batch_size, train.accumulate or data.validation"
        ) from cause


def estimated_seconds(session: TrainState, epochs: int) -> float:
    """Return the seconds that ``epochs`` more epochs will take, validation included.

    A copy of the model takes the steps, and each epoch seeds its own random draws, so the estimate does not change the
    bytes of the run. Validation is timed on the model itself: a copy that has taken steps may have diverged.

    Args:
        session: the run.
        epochs: number of epochs to estimate.
    """
    trial = session.clone_for_dry_run()
    train_mode(trial.model, freeze_batchnorm=session.config.train.freeze_batchnorm)
    batches = list(islice(trial.batches.epoch(0), _STEPS))
    moment = Moment(1, 0, session.config.train.epochs * session.steps)
    steps = [_timed(session, lambda batch=batch: take_step(trial, batch, moment)) for batch in batches]  # type: ignore[misc]
    step = median(steps[1:] or steps)  # the first one warms up
    return epochs * (step * session.steps + _validation_seconds(session))


def _validation_seconds(session: TrainState) -> float:
    if session.validation_set is None:
        return 0.0
    some = session.validation_set.select(range(min(CHUNK, len(session.validation_set))))
    steps = session.config.train.validation_steps
    seconds = _timed(session, lambda: validate(session.eval_model, some, session.adversary, steps, session.task))
    return seconds * len(session.validation_set) / len(some)


def _timed(session: TrainState, work: Callable[[], object]) -> float:
    runtime.synchronize(session.device)
    start = time.perf_counter()
    work()
    runtime.synchronize(session.device)
    return time.perf_counter() - start

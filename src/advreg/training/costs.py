"""What a training will cost, before it begins: passes from one step on a copy, time from a few."""

from __future__ import annotations

from dataclasses import dataclass

from advreg.module_modes import train_mode
from advreg.pass_counting import count_passes
from advreg.trainer.moment import Moment
from advreg.training.dry_run import estimated_seconds
from advreg.training.setup import TrainState
from advreg.training.step import take_step
from advreg.training.validation import validate

_VALIDATED = 64  # held-out examples that are measured in place of all


@dataclass(frozen=True)
class TrainingCosts:
    """Passes and time of a whole training.

    Attributes:
        forwards, backwards: example-forwards and example-backwards of all steps, attacks included; exact for recipes and
            attacks of fixed steps.
        validation_forwards, validation_backwards: those of the validation after every epoch; an upper bound where PGD stops
            early on broken examples.
        seconds: wall time on this machine, validation included.
    """

    forwards: int
    backwards: int
    validation_forwards: int
    validation_backwards: int
    seconds: float


def training_costs(session: TrainState) -> TrainingCosts:
    """Return the cost of a training from a few steps on a copy; the run does not change.

    Args:
        session: the run, as `advreg.training.prepare` returns it.

    Returns:
        Passes and time of all epochs.
    """
    trial, epochs = session.clone_for_dry_run(), session.config.train.epochs
    train_mode(trial.model, freeze_batchnorm=session.config.train.freeze_batchnorm)
    tally = take_step(trial, next(iter(trial.batches.epoch(0))), Moment(1, 0, epochs * session.steps))
    visits = epochs * session.replays * sum(len(rows) for rows in session.batches.rows(1))
    forwards, backwards = (round(passes / tally.count * visits) for passes in (tally.forwards, tally.backwards))
    checked = _validation_passes(session)
    seconds = estimated_seconds(session, epochs)
    return TrainingCosts(forwards, backwards, epochs * checked[0], epochs * checked[1], seconds)


def _validation_passes(session: TrainState) -> tuple[int, int]:
    """Return the passes of one validation."""
    held = session.validation_set
    if held is None:
        return 0, 0
    some = held.select(range(min(_VALIDATED, len(held))))
    with count_passes(session.eval_model) as passes:
        validate(session.eval_model, some, session.adversary, session.config.train.validation_steps, session.task)
    scale = len(held) / len(some)
    return round(passes.forwards * scale), round(passes.backwards * scale)

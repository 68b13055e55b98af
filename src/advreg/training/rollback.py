"""Rollback: snapshot and restore the state of training."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from advreg.trainer.moment import Moment
from advreg.training import per_example_state
from advreg.training.setup import TrainState, initial_parts
from advreg.training.step import Tally, take_step

_SLOWER = 0.5  # factor on the learning rate after a divergence


@dataclass(frozen=True)
class HealthySnapshot:
    """A copy of the state of training, without the guard's record and the position in the schedule.

    Attributes:
        model, optimizer, parts: their states.
        tally: of the epoch, at that moment.
    """

    model: dict[str, Any]
    optimizer: dict[str, Any]
    parts: dict[str, Any]
    tally: Tally


def snapshot_state(session: TrainState, tally: Tally) -> HealthySnapshot:
    """Return a copy of the state of training, equal on every rank; every rank must call it.

    Args:
        session: the run.
        tally: sums of the epoch so far.
    """
    # restored rows count as synchronised, so rows that only one rank has must be synchronised before
    per_example_state.share(session.stateful_parts)
    states = session.model.state_dict(), session.optimizer.state_dict(), per_example_state.states(_parts(session))
    return HealthySnapshot(*copy.deepcopy(states), tally)


def roll_back(session: TrainState, healthy: HealthySnapshot) -> None:
    """Restore model, optimizer and per-example state; the schedule is not rewound.

    Args:
        session: the run.
        healthy: what `snapshot_state` returned.
    """
    model, optimizer, parts = copy.deepcopy((healthy.model, healthy.optimizer, healthy.parts))
    session.model.load_state_dict(model)
    session.optimizer.load_state_dict(optimizer)
    per_example_state.restore(_parts(session), parts)
    _set_lr(session, 1.0)


def restart(session: TrainState) -> None:
    """Give model, optimizer and per-example state what they had before the first step; the schedule is not rewound.

    Args:
        session: the run.

    Raises:
        WeightsError, ModelError: the weights that the run started from are no longer there.
    """
    model, fresh = initial_parts(session)
    session.model.load_state_dict(model.state_dict())
    session.optimizer.state.clear()
    per_example_state.restore(_parts(session), per_example_state.states(fresh))


def warm_up(session: TrainState, steps: int = 4) -> None:
    """Take some steps and undo them, so that compiling and autotuning do not count when training is timed.

    Args:
        session: the run, before its first step.
        steps: steps on the first batches of the first epoch.
    """
    before, schedule = snapshot_state(session, Tally()), session.scheduler.state_dict()
    for k, batch in zip(range(steps), session.batches.epoch(0), strict=False):
        take_step(session, batch, Moment(1, k, session.steps))
    session.scheduler.load_state_dict(schedule)
    roll_back(session, before)


def slow_down(session: TrainState) -> float:
    """Halve the learning rate of all following steps; return that of the next step.

    Args:
        session: the run.
    """
    session.scheduler.base_lrs = [_SLOWER * lr for lr in session.scheduler.base_lrs]
    return _set_lr(session, _SLOWER)


def _set_lr(session: TrainState, factor: float) -> float:
    rates = [factor * float(lr) for lr in session.scheduler.get_last_lr()]
    session.scheduler._last_lr = list(rates)
    for group, lr in zip(session.optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    return rates[0]


def _parts(session: TrainState) -> dict[str, object]:
    return {name: part for name, part in session.stateful_parts.items() if name != "guard"}

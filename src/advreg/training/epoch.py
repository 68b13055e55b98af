"""One epoch: train, evaluate on the validation set, and return the progress of the run."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from itertools import islice
from typing import Any

from advreg import distributed, runtime
from advreg.attacks.readback import verify_pending
from advreg.config.compatibility import CERTIFIED
from advreg.module_modes import eval_mode, train_mode
from advreg.pass_counting import count_passes
from advreg.trainer import averaging
from advreg.trainer.events import OnEvent
from advreg.trainer.moment import Moment
from advreg.training import per_example_state
from advreg.training.checkpoint import TrainingProgress
from advreg.training.epoch_monitor import EpochMonitor
from advreg.training.setup import TrainState
from advreg.training.step import Tally, take_step
from advreg.training.validation import Score, certified_accuracy, validate


def train_epoch(session: TrainState, epoch: int, before: TrainingProgress, emit: OnEvent) -> TrainingProgress:
    """Train and validate one epoch, and return the progress of the run.

    Args:
        session: the run.
        epoch: number of the epoch, from 1.
        before: progress after the epoch before.
        emit: called with each event.

    Returns:
        The progress after this epoch.

    Raises:
        TrainingError: the loss or the weights stop being finite.
        DataError, ModelError: inputs, labels or outputs that checks on a GPU read at the end of the epoch only.
    """
    runtime.seed_everything(runtime.derived_seed(session.config.seed, "epoch", epoch))
    start = time.perf_counter()
    tally, log = _steps(session, epoch, emit)
    seconds = time.perf_counter() - start
    score = _score(session)
    record = _record(session, epoch, tally, score, seconds)
    if score is not None and (score.is_chance or score.rank <= before.best_rank):
        return TrainingProgress(epoch, before.best_epoch, before.best_rank, record, log)
    return TrainingProgress(epoch, epoch, score.rank if score else before.best_rank, record, log)


def _steps(session: TrainState, epoch: int, emit: OnEvent) -> tuple[Tally, list[dict[str, Any]]]:
    """Take the steps of an epoch; return its tally and the log of the guard."""
    per_example_state.start_epoch(session.stateful_parts, epoch)
    train_mode(session.model, freeze_batchnorm=session.config.train.freeze_batchnorm)
    monitor = EpochMonitor(session, epoch, emit)
    tally = Tally()
    replayed = (batch for batch in session.batches.epoch(epoch) for _ in range(session.replays))
    step = 0
    for step, batch in enumerate(replayed, 1):
        moment = Moment(epoch, (epoch - 1) * session.steps + step - 1, session.config.train.epochs * session.steps)
        tally = monitor.after_step(tally.plus(take_step(session, batch, moment)), step)
    if step < session.steps:  # batches of broken images are left out; the monitor runs at the end in any case
        tally = monitor.after_step(tally, session.steps)
    verify_pending()
    per_example_state.share(session.stateful_parts)
    distributed.broadcast_buffers(session.model)
    tally = _reestimate(session, epoch, tally)
    if session.average is not None:
        distributed.broadcast_buffers(session.average.model)  # each process copied the statistics of its own part
    return tally.of_all(session.device), monitor.log


def _reestimate(session: TrainState, epoch: int, tally: Tally) -> Tally:
    """Measure the statistics of the average's BatchNorms on attacked batches of the epoch; return the tally with the cost."""
    average, batches = session.average, session.reestimated_batches
    if average is None or not batches:
        return tally
    attack = copy.deepcopy(session.attack)  # an attack with per-example state must not count these visits
    with count_passes(average.model) as passes:
        with eval_mode(average.model) as model:
            attacked = [
                attack(model, batch.x, batch.y, session.threat, ids=batch.ids).x_adv
                for batch in islice(session.batches.epoch(epoch), batches)
            ]
        averaging.recompute_batchnorm_stats(average.model, attacked)
    return replace(tally, forwards=tally.forwards + passes.forwards, backwards=tally.backwards + passes.backwards)


def _score(session: TrainState) -> Score | None:
    if session.validation_set is None:
        return None
    steps = session.config.train.validation_steps
    score = validate(session.eval_model, session.validation_set, session.adversary, steps, session.task)
    if session.config.recipe.name not in CERTIFIED:
        return score
    return replace(
        score, certified_accuracy=certified_accuracy(session.eval_model, session.validation_set, session.threat)
    )


def _record(session: TrainState, epoch: int, tally: Tally, score: Score | None, seconds: float) -> dict[str, Any]:
    """Return the epoch's line of metrics.jsonl; times and memory come last, for they alone differ between runs."""
    return {
        "epoch": epoch,
        "step": epoch * session.steps,
        "loss": tally.loss if tally.count else None,  # None where the guard took the whole epoch back
        "train_accuracy": tally.accuracy if tally.count else None,
        "lr": tally.lr,
        "forwards": tally.forwards,
        "backwards": tally.backwards,
        "examples": tally.count,
        "clean_accuracy": score.clean_accuracy if score else None,
        "robust_accuracy": score.robust_accuracy if score else None,
        **_certificate(score),
        "seconds": round(seconds, 3),
        "examples_per_second": round(tally.count / seconds, 1),
        "peak_memory": runtime.peak_memory(session.device),
    }


def _certificate(score: Score | None) -> dict[str, float]:
    return {} if score is None or score.certified_accuracy is None else {"certified_accuracy": score.certified_accuracy}

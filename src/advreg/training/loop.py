"""`fit`: from a configuration to a run folder, one complete epoch after the other."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from advreg import runtime
from advreg.config import Config
from advreg.errors import ModelError
from advreg.runs import RunFolder
from advreg.training.checkpoint import METRICS, Progress, commit, restore
from advreg.training.estimate import estimated_seconds
from advreg.training.events import EpochEnd, Finished, OnEvent, Resumed, Started, Step
from advreg.training.folder import noted_changes, read_config, start_folder
from advreg.training.session import Session, prepare
from advreg.training.step import Tally, take_step
from advreg.training.validation import Score, validate

_REPORTS = 50  # steps are reported about this often in an epoch: looking at the loss waits for the device


def fit(config: Config | str | Path, *, resume: bool = False, on_event: OnEvent | None = None) -> RunFolder:
    """Train as a configuration says, and return the run folder that holds the result.

    An interrupted run, by Ctrl-C or a kill at any moment, loses at most the epoch it was in. Resumed, it ends with the same
    bytes as an uninterrupted one (on the same machine and versions): ``model.safetensors`` (best epoch by held-out robust
    accuracy, or clean accuracy without an attack), ``last.safetensors`` and ``metrics.jsonl`` but for its times.

    Args:
        config: a `Config`, a TOML file, or, to resume, the run folder itself.
        resume: go on with the run in ``config.train.out``; a finished run is returned as it is.
        on_event: called with each event of `advreg.training.events`.

    Raises:
        ConfigError, DataError, ModelError, ThreatError: something cannot be used; nothing has been written then.
        RunError: the run folder exists (or, to resume, does not), cannot be written, or is in use.
        ModelError: the loss or the weights stop being finite; the last complete epoch is kept.

    Example:
        >>> import tempfile
        >>> run = fit(Config().replace_with([
        ...     "model.name=zoo:mnist-dnn", "data.validation=59000", "train.epochs=1", "optimizer.lr=0.01",
        ...     f"train.out={tempfile.mkdtemp()}",
        ... ]))
        >>> [record["epoch"] for record in run.read_log("metrics.jsonl")]
        [1]
    """
    config = read_config(config, resume=resume)
    session = prepare(config)
    run = start_folder(config, session, resume=resume)
    with run.lock(), runtime.deterministic():
        return _train(run, session, on_event or (lambda event: None))


def _train(run: RunFolder, session: Session, emit: OnEvent) -> RunFolder:
    epochs = session.config.train.epochs
    progress = restore(run, session)
    left = epochs - progress.epoch
    if progress.epoch and left:
        run.append(METRICS, {"event": "resumed", "epoch": progress.epoch, "changed": noted_changes(run)})
        emit(Resumed(progress.epoch))
    seconds = estimated_seconds(session, left) if left else 0.0
    emit(Started(run.path, epochs, len(session.batches), seconds))
    began, first = time.perf_counter(), progress.epoch
    for epoch in range(first + 1, epochs + 1):
        progress = _epoch(session, epoch, progress, emit)
        commit(run, session, progress)
        pace = (time.perf_counter() - began) / (epoch - first)
        emit(EpochEnd(epoch, epochs, progress.record, progress.best_epoch == epoch, pace * (epochs - epoch)))
    emit(Finished(epochs, progress.best_epoch))
    return run


def _epoch(session: Session, epoch: int, before: Progress, emit: OnEvent) -> Progress:
    """Train one epoch, measure it, and return where training then stands."""
    runtime.seed_everything(runtime.derived_seed(session.config.seed, "epoch", epoch))
    session.model.train()
    start = time.perf_counter()
    tally = _steps(session, epoch, emit)
    seconds = time.perf_counter() - start
    _refuse_weights(session, epoch)
    score = None
    if session.held is not None:
        steps = session.config.train.validation_steps
        score = validate(session.model, session.held, session.adversary, steps)
    record = _record(session, epoch, tally, score, seconds)
    if score is not None and score.rank <= before.best_rank:
        return Progress(epoch, before.best_epoch, before.best_rank, record)
    return Progress(epoch, epoch, score.rank if score else before.best_rank, record)


def _steps(session: Session, epoch: int, emit: OnEvent) -> Tally:
    steps = len(session.batches)
    every = max(1, steps // _REPORTS)
    tally = Tally()
    for step, batch in enumerate(session.batches.epoch(epoch), 1):
        lr = session.optimizer.param_groups[0]["lr"]
        tally = tally.plus(*take_step(session, batch), count=len(batch.y), lr=lr)
        if step % every == 0 or step == steps:
            if not math.isfinite(tally.loss):
                raise _diverged(session, f"the loss is {tally.loss} at epoch {epoch}, step {step}")
            emit(Step(epoch, step, steps, tally.loss, tally.accuracy))
    return tally


def _refuse_weights(session: Session, epoch: int) -> None:
    """Raise unless every weight is finite: what is not must never reach a checkpoint."""
    for name, tensor in session.model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise _diverged(session, f"{name} holds NaN or infinity after epoch {epoch}")


def _diverged(session: Session, what: str) -> ModelError:
    lr = session.config.optimizer.lr
    return ModelError(
        f"training diverged: {what}; lower optimizer.lr (now {lr:g}) or set train.gradient_clip, "
        "then train in another folder (the last complete epoch is kept in this one)"
    )


def _record(session: Session, epoch: int, tally: Tally, score: Score | None, seconds: float) -> dict[str, Any]:
    """Return the epoch's line of metrics.jsonl; the times come last, for they alone differ between runs."""
    return {
        "epoch": epoch,
        "step": epoch * len(session.batches),
        "loss": tally.loss,
        "train_accuracy": tally.accuracy,
        "lr": tally.lr,
        "clean_accuracy": score.clean_accuracy if score else None,
        "robust_accuracy": score.robust_accuracy if score else None,
        "seconds": round(seconds, 3),
        "examples_per_second": round(tally.count / seconds, 1),
    }

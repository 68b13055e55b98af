"""`fit`: from a configuration to a run folder, one complete epoch after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from advreg import distributed, runtime
from advreg.config import Config
from advreg.distributed import Ranks
from advreg.plugins import first_line, trusting
from advreg.runs import RunFolder
from advreg.training.checkpoint import METRICS, TrainingProgress, commit, restore
from advreg.training.dry_run import dry_run, estimated_seconds
from advreg.training.epoch import train_epoch
from advreg.training.events import EpochEnd, Failed, Finished, OnEvent, Resumed, Started
from advreg.training.folder import changed_environment, read_config, start_folder, use_own_weights
from advreg.training.setup import TrainState, prepare


def fit(
    config: Config | str | Path,
    *,
    resume: bool = False,
    trust_code: bool = False,
    on_event: OnEvent | None = None,
) -> RunFolder:
    """Train by a configuration, and return the run folder with the result.

    A run that is interrupted at any moment loses at most the current epoch. Resumed, it ends with the same
    bytes as an uninterrupted one (on the same machine and versions): ``model.safetensors`` (best epoch by held-out robust
    accuracy, or clean accuracy without an attack), ``last.safetensors`` and ``metrics.jsonl`` but for its times and memory.

    Processes that ``torchrun`` starts train one model together, each on its part of every batch; rank 0 writes.

    Args:
        config: a `Config`, a TOML file, or, to resume, the run folder itself.
        resume: whether to continue the run in ``config.train.out``; a finished run is returned unchanged.
        trust_code: let the file, and run folders that it names, name code (``pkg.module:factory``).
        on_event: called with each event of `advreg.training.events`, in rank 0.

    Raises:
        ConfigError, DataError, ModelError, ThreatError: the configuration cannot be used; nothing is written then.
        RunError: the run folder exists (or, to resume, does not), cannot be written, is in use, or was started with other data.
        TrainingError: the loss or the weights stop being finite; the last complete epoch is kept.

    Example:
        >>> import tempfile
        >>> run = fit(Config().replace_with([
        ...     "model.name=zoo:mnist-dnn", "data.validation=59000", "train.epochs=1", "optimizer.lr=0.01",
        ...     f"train.out={tempfile.mkdtemp()}",
        ... ]))
        >>> [record["epoch"] for record in run.read_log("metrics.jsonl") if "event" not in record]
        [1]
    """
    with trusting(trust_code):
        return _fit_as_configured(read_config(config, resume=resume), resume, on_event)


def _fit_as_configured(config: Config, resume: bool, on_event: OnEvent | None) -> RunFolder:
    device = runtime.choose_device(config.train.device)
    runtime.make_current(device)
    with distributed.join_processes(distributed.backend_for(device)) as ranks:
        return _fit(config, ranks, resume, on_event if on_event and ranks.is_main else lambda event: None)


def _fit(config: Config, ranks: Ranks, resume: bool, emit: OnEvent) -> RunFolder:
    """Train in the process group; a separate function, so that no module outlives the group."""
    session = prepare(use_own_weights(config, resume=resume), ranks)
    find_unused = dry_run(session)
    session = replace(session, loss_module=distributed.wrap_ddp(session.loss_module, find_unused=find_unused))
    run = _folder(config, session, resume=resume)
    with run.lock() if ranks.is_main else nullcontext(), runtime.deterministic():
        return _train(run, session, emit)


def _folder(config: Config, session: TrainState, *, resume: bool) -> RunFolder:
    """Return the run folder, which rank 0 creates."""
    if session.ranks.is_main:
        run = start_folder(config, session, resume=resume)
        session.ranks.barrier()
        return run
    session.ranks.barrier()
    return RunFolder.open(config.train.out)


def _train(run: RunFolder, session: TrainState, emit: OnEvent) -> RunFolder:
    epochs = session.config.train.epochs
    progress = restore(run, session)
    left = epochs - progress.epoch
    if progress.epoch and left:
        _note_resume(run, session.ranks, progress.epoch)
        emit(Resumed(progress.epoch))
    seconds = estimated_seconds(session, left) if left else 0.0
    with _emitting_failure(emit):
        emit(Started(run.path, epochs, session.steps, seconds))
        progress = _epochs(run, session, progress, emit)
    emit(Finished(epochs, progress.best_epoch))
    return run


def _epochs(run: RunFolder, session: TrainState, progress: TrainingProgress, emit: OnEvent) -> TrainingProgress:
    """Train and write the remaining epochs; return the progress."""
    began, first, epochs = time.perf_counter(), progress.epoch, session.config.train.epochs
    for epoch in range(first + 1, epochs + 1):
        progress = train_epoch(session, epoch, progress, emit)
        commit(run, session, progress)
        pace = (time.perf_counter() - began) / (epoch - first)
        emit(EpochEnd(epoch, epochs, progress.record, progress.best_epoch == epoch, pace * (epochs - epoch)))
    return progress


@contextmanager
def _emitting_failure(emit: OnEvent) -> Iterator[None]:
    """Emit `Failed` where training raises, so that loggers close what they have open."""
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # the first error is the one to raise
            emit(Failed(first_line(error)))
        raise


def _note_resume(run: RunFolder, ranks: Ranks, epoch: int) -> None:
    if ranks.is_main:
        run.append(METRICS, {"event": "resumed", "epoch": epoch, "changed": changed_environment(run)})

"""`fit`: from a configuration to a run folder, one complete epoch after the other."""

from __future__ import annotations

import time
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from advreg import distributed, runtime
from advreg.config import Config
from advreg.distributed import Ranks
from advreg.plugins import trusting
from advreg.runs import RunFolder
from advreg.trainer.checkpoint import METRICS
from advreg.trainer.events import Checkpointed, Finished, OnEvent, Resumed, Started, ignore_event
from advreg.trainer.loop import remaining_seconds, run_rounds
from advreg.training.checkpoint import TrainingProgress, commit, restore
from advreg.training.dry_run import dry_run, estimated_seconds
from advreg.training.epoch import train_epoch
from advreg.training.folder import changed_environment, read_config, start_folder, use_own_weights
from advreg.training.learning import failure_to_learn
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
        on_event: called with each event of `advreg.trainer.events`, in rank 0.

    Returns:
        The run folder. A run that learned nothing warns at its end, where no ``on_event`` receives the guard's events.

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
        run = _fit_as_configured(read_config(config, resume=resume), resume, on_event)
    if on_event is None and (failure := failure_to_learn(run)) is not None:
        warnings.warn(f"{run.path}: nothing was learned: {failure}", stacklevel=2)
    return run


def _fit_as_configured(config: Config, resume: bool, on_event: OnEvent | None) -> RunFolder:
    device = runtime.choose_device(config.train.device)
    runtime.make_current(device)
    with distributed.join_processes(distributed.backend_for(device)) as ranks:
        return _fit(config, ranks, resume, on_event if on_event and ranks.is_main else ignore_event)


def _fit(config: Config, ranks: Ranks, resume: bool, emit: OnEvent) -> RunFolder:
    """Train in the process group; a separate function, so that no module outlives the group."""
    session = prepare(use_own_weights(config, resume=resume), ranks)
    find_unused = dry_run(session)
    wrapped = distributed.wrap_ddp(session.loss_module, find_unused=find_unused)
    session = replace(session, config=config, loss_module=wrapped)  # as configured: a restart needs the first weights
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
    progress = restore(run, session)
    first, epochs, steps = progress.epoch, session.config.train.epochs, session.steps
    if first and first < epochs:
        _note_resume(run, session.ranks, first)
        emit(Resumed(first))
    seconds = estimated_seconds(session, epochs - first) if first < epochs else 0.0
    start = time.perf_counter()

    def write(progress: TrainingProgress) -> Checkpointed:
        commit(run, session, progress)
        left = remaining_seconds(start, progress.epoch - first, epochs - progress.epoch)
        best = progress.best_epoch == progress.epoch
        return Checkpointed(progress.epoch, epochs, steps, steps, progress.record, best, left)

    run_rounds(
        progress,
        Started(run.path, epochs, steps, seconds, step=first * steps),
        emit,
        is_done=lambda progress: progress.epoch >= epochs,
        train_round=lambda progress: train_epoch(session, progress.epoch + 1, progress, emit),
        commit=write,
        finish=lambda progress: Finished(epochs, progress.best_epoch, steps, steps),
    )
    return run


def _note_resume(run: RunFolder, ranks: Ranks, epoch: int) -> None:
    if ranks.is_main:
        run.append(METRICS, {"event": "resumed", "epoch": epoch, "changed": changed_environment(run)})

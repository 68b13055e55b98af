"""`fit_language`: from a configuration to a run folder, one round of ``train.every`` steps after the other."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from advreg import distributed, runtime
from advreg.distributed import SINGLE, Ranks
from advreg.errors import TrainingError
from advreg.language.config import LanguageConfig
from advreg.language.training import checkpoint
from advreg.language.training.checkpoint import LanguageTrainingProgress
from advreg.language.training.collapse_monitor import CollapseProbe, detect_collapse, measure_collapse
from advreg.language.training.folder import CONFIG
from advreg.language.training.setup import LanguageTrainState, prepare
from advreg.language.training.step import Tally, add_tallies, divergence, mean_terms, take_step
from advreg.plugins import trusting
from advreg.runs import RunFolder
from advreg.trainer.divergence import divergence_error
from advreg.trainer.events import Checkpointed, Finished, Guarded, OnEvent, Started, Step, ignore_event
from advreg.trainer.loop import remaining_seconds, run_rounds
from advreg.trainer.run_folder import read_run_config, start_or_resume


def fit_language(
    config: LanguageConfig | str | Path,
    *,
    resume: bool = False,
    trust_code: bool = False,
    on_event: OnEvent | None = None,
) -> RunFolder:
    """Train a language model by a configuration, and return the run folder with the result.

    An interrupted run, by Ctrl-C or a kill at any moment, loses at most ``train.every`` steps. Resumed, it ends with the same
    bytes as an uninterrupted one (on the same machine, versions and threads): ``adapter_model.safetensors``, or for a whole
    model ``model.safetensors``, and ``metrics.jsonl`` but for its times.

    Processes that ``torchrun`` or ``accelerate launch`` starts train one model together, each on its part of every batch, so
    that their number changes the loss by rounding only; rank 0 writes.

    Args:
        config: a `LanguageConfig`, a TOML file, or, to resume, the run folder itself.
        resume: whether to continue the run in ``config.train.out``; a finished run is returned unchanged.
        trust_code: let the file name code (``pkg.module:factory``).
        on_event: called with each event of `advreg.trainer.events`, in rank 0.

    Returns:
        The run folder.

    Raises:
        ConfigError, DataError, ModelError: the configuration cannot be used; nothing is written then.
        RunError: the run folder exists (or, to resume, does not), cannot be written, or is in use.
        TrainingError: the loss or the weights stop being finite; the last complete round is kept.
    """
    with trusting(trust_code):
        return _fit_as_configured(
            read_run_config(config, LanguageConfig, CONFIG, resume=resume), resume, on_event or ignore_event
        )


def _fit_as_configured(config: LanguageConfig, resume: bool, emit: OnEvent) -> RunFolder:
    if config.train.device == "auto":  # transformers places the layers
        return _fit(config, SINGLE, resume, emit)
    device = runtime.choose_device(config.train.device)
    runtime.make_current(device)
    with distributed.join_processes(distributed.backend_for(device)) as ranks:
        return _fit(config, ranks, resume, emit if ranks.is_main else ignore_event)


def _fit(config: LanguageConfig, ranks: Ranks, resume: bool, emit: OnEvent) -> RunFolder:
    """Train in the process group; rank 0 creates and locks the folder."""
    session = prepare(config)
    created = start_or_resume(config, CONFIG, resume=resume) if ranks.is_main else None
    ranks.barrier()
    run = created or RunFolder.open(config.train.out)
    with run.lock() if ranks.is_main else nullcontext(), runtime.deterministic():
        _train(run, session, emit)
    return run


def _train(run: RunFolder, session: LanguageTrainState, emit: OnEvent) -> None:
    progress = checkpoint.restore(run, session) or _initial_progress(run, session)
    steps = session.steps

    def write(progress: LanguageTrainingProgress) -> Checkpointed:
        checkpoint.commit(run, session, progress)
        return Checkpointed(1, 1, progress.step, steps, progress.lines[-1])

    run_rounds(
        progress,
        Started(run.path, 1, steps, step=progress.step, left_out=session.texts.left_out),
        emit,
        is_done=lambda progress: progress.step >= steps or bool(progress.stopped),
        train_round=lambda progress: _guard_round(run, session, _train_round(session, progress, emit), emit),
        commit=write,
        finish=lambda progress: Finished(1, 1, progress.step, steps),
    )
    session.lm.network.eval()


def _initial_progress(run: RunFolder, session: LanguageTrainState) -> LanguageTrainingProgress:
    """Write the model as it is before training: the guard compares with it, and rolls back to it."""
    before = None if session.config.train.guard == "off" else measure_collapse(session.lm, session.texts.held)
    progress = LanguageTrainingProgress(0, "", [{"step": 0, **_figures(before)}], before)
    checkpoint.commit(run, session, progress)
    return progress


def _train_round(
    session: LanguageTrainState, progress: LanguageTrainingProgress, emit: OnEvent
) -> LanguageTrainingProgress:
    """Take the steps until the next probe, and probe."""
    first, last = progress.step, min(progress.step + session.config.train.every, session.steps)
    start, tally = time.perf_counter(), Tally()
    for step in range(first, last):
        now = take_step(session, step)
        if (problem := divergence(session, now)) is not None:
            raise _diverged(session, f"{problem} after step {step + 1}")
        tally = add_tallies(tally, now)
        left = remaining_seconds(start, step + 1 - first, session.steps - step - 1)
        emit(Step(1, step + 1, session.steps, now["loss"], seconds_left=left))
    seconds = time.perf_counter() - start
    probe = None if progress.before is None else _probe_average(session)
    return replace(progress, step=last, lines=[_record(session, last, tally, probe, seconds)])


def _probe_average(session: LanguageTrainState) -> CollapseProbe:
    """Probe the weights that the run folder will hold."""
    with session.averaged():
        return measure_collapse(session.lm, session.texts.held)


def _guard_round(
    run: RunFolder, session: LanguageTrainState, progress: LanguageTrainingProgress, emit: OnEvent
) -> LanguageTrainingProgress:
    """Report a collapse of the model; in mode ``stop``, roll back to the last checkpoint and end training."""
    mode, line = session.config.train.guard, progress.lines[-1]
    if progress.before is None:
        return progress
    probe = CollapseProbe(line["held_refused"], line["held_repetition"], line["held_nll"])
    if (message := detect_collapse(probe, progress.before)) is None:
        return progress
    action = (
        "stopped; the weights before are kept" if mode == "stop" else "none: lower train.lr, train.mix or train.steps"
    )
    emit(Guarded(1, progress.step, "collapse", message, action))
    guarded = {"event": "guard", "step": progress.step, "said": message, "action": action}
    if mode != "stop":
        return replace(progress, lines=[guarded, *progress.lines])
    return replace(checkpoint.roll_back(run, session), stopped=message, lines=[line, guarded])


def _record(
    session: LanguageTrainState, step: int, tally: Tally, probe: CollapseProbe | None, seconds: float
) -> dict[str, Any]:
    """Return a line of metrics.jsonl; the seconds come last, because they alone differ between runs."""
    counts = {name: int(tally[name]) for name in ("adversarial", "examples", "forwards", "backwards")}
    lr = session.optimizer.param_groups[0]["lr"]
    return {"step": step, **mean_terms(tally), "lr": lr, **counts, **_figures(probe), "seconds": round(seconds, 3)}


def _figures(probe: CollapseProbe | None) -> dict[str, float]:
    names = {"refused": "held_refused", "repetition": "held_repetition", "utility_nll": "held_nll"}
    return {} if probe is None else {names[name]: value for name, value in asdict(probe).items()}


def _diverged(session: LanguageTrainState, problem: str) -> TrainingError:
    remedy = f"lower train.lr (now {session.config.train.lr:.3g}) or train.gradient_clip"
    return divergence_error(problem, remedy, "what was reached before")

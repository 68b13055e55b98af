"""`fit_language`: from a configuration to a run folder, one stretch of steps after the other."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from advreg import runtime
from advreg.errors import TrainingError
from advreg.language.config import LanguageConfig
from advreg.language.training import checkpoint
from advreg.language.training.checkpoint import LanguageTrainingProgress
from advreg.language.training.collapse_monitor import CollapseProbe, collapse, measure_collapse
from advreg.language.training.events import (
    CollapseGuarded,
    LanguageFinished,
    LanguageStarted,
    LanguageStep,
    OnEvent,
    Written,
)
from advreg.language.training.folder import read_config, start_folder
from advreg.language.training.setup import LanguageTrainState, prepare
from advreg.language.training.step import Tally, broken, means, plus, take_step
from advreg.plugins import trusting
from advreg.runs import RunFolder


def fit_language(
    config: LanguageConfig | str | Path,
    *,
    resume: bool = False,
    trust_code: bool = False,
    on_event: OnEvent | None = None,
) -> RunFolder:
    """Train a language model as a configuration says, and return the run folder that holds the result.

    An interrupted run, by Ctrl-C or a kill at any moment, loses at most ``train.every`` steps. Resumed, it ends with the same
    bytes as an uninterrupted one (on the same machine, versions and threads): ``adapter.safetensors``, or for a whole model
    ``model.safetensors``, and ``metrics.jsonl`` but for its times.

    Args:
        config: a `LanguageConfig`, a TOML file, or, to resume, the run folder itself.
        resume: go on with the run in ``config.train.out``; a finished run is returned as it is.
        trust_code: let the file name code (``pkg.module:factory``).
        on_event: called with each event of `advreg.language.training.events`.

    Raises:
        ConfigError, DataError, ModelError: something cannot be used; nothing has been written then.
        RunError: the run folder exists (or, to resume, does not), cannot be written, or is in use.
        TrainingError: the loss or the weights stop being finite; what was reached before is kept.
    """
    with trusting(trust_code):
        config = read_config(config, resume=resume)
        session = prepare(config)
        run = start_folder(config, resume=resume)
    with run.lock(), runtime.deterministic():
        _train(run, session, on_event or (lambda event: None))
    return run


def _train(run: RunFolder, session: LanguageTrainState, emit: OnEvent) -> None:
    progress = checkpoint.restore(run, session) or _begun(run, session)
    emit(LanguageStarted(run.path, progress.step, session.steps, session.stock.left_out))
    while progress.step < session.steps and not progress.stopped:
        progress = _guarded(run, session, _stretch(session, progress, emit), emit)
        checkpoint.commit(run, session, progress)
        emit(Written(progress.step, session.steps, progress.lines[-1]))
    session.lm.network.eval()
    emit(LanguageFinished(progress.step, session.steps))


def _begun(run: RunFolder, session: LanguageTrainState) -> LanguageTrainingProgress:
    """Write down the model as it is before training: what the guard compares to, and falls back on."""
    before = None if session.config.train.guard == "off" else measure_collapse(session.lm, session.stock.held)
    progress = LanguageTrainingProgress(0, "", [{"step": 0, **_figures(before)}], before)
    checkpoint.commit(run, session, progress)
    return progress


def _stretch(
    session: LanguageTrainState, progress: LanguageTrainingProgress, emit: OnEvent
) -> LanguageTrainingProgress:
    """Take the steps until the next look, and look."""
    first, last = progress.step, min(progress.step + session.config.train.every, session.steps)
    began, tally = time.perf_counter(), Tally()
    for step in range(first, last):
        now = take_step(session, step)
        if (said := broken(session, now)) is not None:
            raise _diverged(session, f"{said} after step {step + 1}")
        tally = plus(tally, now)
        pace = (time.perf_counter() - began) / (step + 1 - first)
        emit(LanguageStep(step + 1, session.steps, now["loss"] / now["examples"], pace * (session.steps - step - 1)))
    seconds = time.perf_counter() - began
    pulse = None if progress.before is None else _pulse(session)
    return replace(progress, step=last, lines=[_record(session, last, tally, pulse, seconds)])


def _pulse(session: LanguageTrainState) -> CollapseProbe:
    """Look at the weights that will be kept."""
    with session.average.in_place() if session.average else nullcontext():
        return measure_collapse(session.lm, session.stock.held)


def _guarded(
    run: RunFolder, session: LanguageTrainState, progress: LanguageTrainingProgress, emit: OnEvent
) -> LanguageTrainingProgress:
    """Say whether the model has collapsed; where that ends training, go back to the last checkpoint, which had not."""
    mode, line = session.config.train.guard, progress.lines[-1]
    if progress.before is None:
        return progress
    pulse = CollapseProbe(line["held_refused"], line["held_repetition"], line["held_nll"])
    if (said := collapse(pulse, progress.before)) is None:
        return progress
    action = (
        "stopped; the weights before are kept" if mode == "stop" else "none: lower train.lr, train.mix or train.steps"
    )
    emit(CollapseGuarded(progress.step, said, action))
    noted = {"event": "guard", "step": progress.step, "said": said, "action": action}
    if mode != "stop":
        return replace(progress, lines=[noted, *progress.lines])
    return replace(checkpoint.load(run, session), stopped=said, lines=[line, noted])


def _record(
    session: LanguageTrainState, step: int, tally: Tally, pulse: CollapseProbe | None, seconds: float
) -> dict[str, Any]:
    """Return a line of metrics.jsonl; the seconds come last, for they alone differ between runs."""
    counts = {name: int(tally[name]) for name in ("adversarial", "examples", "forwards", "backwards")}
    lr = session.optimizer.param_groups[0]["lr"]
    return {"step": step, **means(tally), "lr": lr, **counts, **_figures(pulse), "seconds": round(seconds, 3)}


def _figures(pulse: CollapseProbe | None) -> dict[str, float]:
    names = {"refused": "held_refused", "repetition": "held_repetition", "utility_nll": "held_nll"}
    return {} if pulse is None else {names[name]: value for name, value in asdict(pulse).items()}


def _diverged(session: LanguageTrainState, what: str) -> TrainingError:
    return TrainingError(
        f"training diverged: {what}; lower train.lr (now {session.config.train.lr:.3g}) or train.gradient_clip, "
        "then train in another folder (what was reached before is kept in this one)"
    )

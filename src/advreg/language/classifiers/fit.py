"""`fit_text`: from a configuration to a run folder of a text classifier, one epoch after the other."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advreg import runtime
from advreg.errors import ConfigError, DataError, TrainingError
from advreg.language.classifiers.config import TextConfig
from advreg.language.classifiers.examples import LabelledText, label_numbers, read_texts
from advreg.language.classifiers.model import TextClassifier, load_classifier, trained_head
from advreg.language.classifiers.training import TextTrainingSession, start_session, take_step
from advreg.language.models.saving import write_pretrained
from advreg.runs import RunFolder
from advreg.trainer.checkpoint import append_missing, commit_checkpoint, restore_checkpoint
from advreg.trainer.divergence import divergence_error
from advreg.trainer.events import Checkpointed, Finished, OnEvent, Started, Step, ignore_event
from advreg.trainer.loop import remaining_seconds, run_rounds
from advreg.trainer.run_folder import read_run_config, start_or_resume

CONFIG, WEIGHTS = "text.toml", "model.safetensors"


@dataclass(frozen=True)
class TextTrainingProgress:
    """Epochs done, and the line of metrics.jsonl of the last one."""

    epoch: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)


def fit_text(config: TextConfig | str | Path, *, resume: bool = False, on_event: OnEvent | None = None) -> RunFolder:
    """Train a text classifier by a configuration, and return the run folder with the result.

    The folder is also one of transformers: ``AutoModelForSequenceClassification.from_pretrained(folder)`` loads it. An
    interrupted run loses at most one epoch; resumed, it ends with the same bytes as an uninterrupted one.

    Args:
        config: a `TextConfig`, a TOML file, or, to resume, the run folder itself.
        resume: whether to continue the run in ``config.train.out``; a finished run is returned unchanged.
        on_event: called with each event of `advreg.trainer.events`.

    Returns:
        The run folder.

    Raises:
        ConfigError, DataError, ModelError: the configuration cannot be used; nothing is written then.
        RunError: the run folder exists (or, to resume, does not), cannot be written, or is in use.
        TrainingError: the loss stops being finite; the last complete epoch is kept.

    Example:
        >>> fit_text(TextConfig())
        Traceback (most recent call last):
        advreg.errors.ConfigError: data.train is empty; name a .csv, .json or .jsonl file with columns text and label
    """
    config = read_run_config(config, TextConfig, CONFIG, resume=resume)
    session = _prepare(config)
    run = start_or_resume(config, CONFIG, resume=resume)
    with run.lock(), runtime.deterministic():
        _train(run, session, on_event or ignore_event)
    return run


def _prepare(config: TextConfig) -> TextTrainingSession:
    """Read the data, load the classifier with a head for its classes, and check that they fit."""
    data = config.data
    if not data.train:
        raise ConfigError(
            f"data.train is empty; name a .csv, .json or .jsonl file with columns {data.text} and {data.label}"
        )
    rows = read_texts(data.train, data.text, data.label)
    classifier = _with_head(config, rows)
    classifier.network.to(runtime.choose_device(config.train.device))
    labels = label_numbers([row.label for row in rows], classifier.classes, data.train)
    return start_session(classifier, [row.text for row in rows], labels, config.fitting)


def _with_head(config: TextConfig, rows: list[LabelledText]) -> TextClassifier:
    """Return the classifier: with its trained head, or with a new one for the classes of the data."""
    model = config.model
    options: dict[str, Any] = {"seed": config.seed, "tokens": model.tokens or None}
    if trained_head(model.name) is not None:
        return load_classifier(model.name, model.num_labels or None, **options)
    names = class_names([row.label for row in rows], model.num_labels)
    classifier = load_classifier(model.name, len(names), **options)
    settings: Any = classifier.network.config
    settings.id2label, settings.label2id = dict(enumerate(names)), {name: k for k, name in enumerate(names)}
    return classifier


def class_names(labels: list[str], count: int = 0) -> list[str]:
    """Return the names of a new head's classes: the labels in order, or "0", "1", ... where all are numbers.

    Args:
        labels: the labels of the data.
        count: number of classes; that of the data if 0.

    Raises:
        DataError: there are fewer than two classes, or another number than ``count``.

    Example:
        >>> class_names(["good", "bad", "good"]), class_names(["2", "0"])
        (['bad', 'good'], ['0', '1', '2'])
    """
    numbers = [int(label) for label in labels if label.isdigit()]
    names = (
        sorted(set(labels)) if len(numbers) < len(labels) else [str(k) for k in range(max([*numbers, count - 1]) + 1)]
    )
    if len(names) < 2 or (count and len(names) != count):
        raise DataError(f"the data has the classes {', '.join(names)}; give {count or 'at least 2'} classes")
    return names


def _train(run: RunFolder, session: TextTrainingSession, emit: OnEvent) -> None:
    epochs, steps = session.fitting.epochs, session.epoch_steps
    progress = _restore(run, session) or TextTrainingProgress()

    def commit(progress: TextTrainingProgress) -> Checkpointed:
        state = {
            "progress": asdict(progress),
            "weights": _weights(session),
            "optimizer": session.optimizer.state_dict(),
        }
        commit_checkpoint(run, lambda: state, lambda: _publish(run, session, progress))
        return Checkpointed(progress.epoch, epochs, steps, steps, progress.lines[-1])

    run_rounds(
        progress,
        Started(run.path, epochs, steps, step=progress.epoch * steps),
        emit,
        is_done=lambda progress: progress.epoch >= epochs,
        train_round=lambda progress: _train_epoch(session, progress, emit),
        commit=commit,
        finish=lambda progress: Finished(epochs, progress.epoch, steps, steps),
    )
    session.classifier.network.eval()


def _train_epoch(session: TextTrainingSession, progress: TextTrainingProgress, emit: OnEvent) -> TextTrainingProgress:
    start, total = time.perf_counter(), 0.0
    epoch = progress.epoch
    for k in range(session.epoch_steps):
        loss = take_step(session, epoch * session.epoch_steps + k)
        if not torch.isfinite(torch.tensor(loss)):
            raise _diverged(session, epoch)
        total += loss
        left = remaining_seconds(start, k + 1, session.epoch_steps - k - 1)
        emit(Step(epoch + 1, k + 1, session.epoch_steps, total / (k + 1), seconds_left=left))
    seconds = round(time.perf_counter() - start, 3)
    line = {"epoch": epoch + 1, "loss": total / session.epoch_steps, "seconds": seconds}
    return TextTrainingProgress(epoch + 1, [line])


def _diverged(session: TextTrainingSession, epoch: int) -> TrainingError:
    problem = f"the loss is not finite in epoch {epoch + 1}"
    return divergence_error(problem, f"lower train.lr (now {session.fitting.lr:.3g})", "what was reached before")


def _weights(session: TextTrainingSession) -> dict[str, Tensor]:
    return dict(session.classifier.network.state_dict())


def _restore(run: RunFolder, session: TextTrainingSession) -> TextTrainingProgress | None:
    def load(state: dict[str, Any]) -> TextTrainingProgress:
        session.classifier.network.load_state_dict(state["weights"])
        session.optimizer.load_state_dict(state["optimizer"])
        return TextTrainingProgress(**state["progress"])

    return restore_checkpoint(run, (WEIGHTS,), load, lambda progress: _publish(run, session, progress))


def _publish(run: RunFolder, session: TextTrainingSession, progress: TextTrainingProgress) -> None:
    classifier = session.classifier
    classifier.tokenizer.model_max_length = classifier.tokens
    write_pretrained(run, classifier.network, classifier.tokenizer)
    append_missing(run, progress.lines)

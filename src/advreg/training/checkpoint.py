"""The checkpoint of image training: an epoch's progress, and the state of the session after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from advreg.errors import RunError
from advreg.runs import RunFolder
from advreg.trainer.checkpoint import NAME, append_missing, commit_checkpoint, restore_checkpoint
from advreg.training import per_example_state
from advreg.training.setup import TrainState

BEST, LAST = "model.safetensors", "last.safetensors"


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of training after a complete epoch.

    Attributes:
        epoch: the last complete epoch; 0 before the first.
        best_epoch, best_rank: the best epoch so far, and its accuracies; epoch 0 while every epoch was at chance level.
        record: the epoch's line of metrics.jsonl.
        log: messages of the guard in this epoch, written before the record.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_rank: tuple[float, float] = (-1.0, -1.0)
    record: dict[str, Any] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)


def commit(run: RunFolder, session: TrainState, progress: TrainingProgress) -> None:
    """Write a complete epoch in the main process: the checkpoint first, then the files that follow from it.

    Args:
        run: the run folder.
        session: the run.
        progress: progress after the epoch.
    """
    commit_checkpoint(run, lambda: _state(session, progress), lambda: _publish(run, session, progress), session.ranks)


def _state(session: TrainState, progress: TrainingProgress) -> dict[str, Any]:
    return {
        "progress": asdict(progress),
        "model": session.model.state_dict(),
        "optimizer": session.optimizer.state_dict(),
        "scheduler": session.scheduler.state_dict(),
        "memory": per_example_state.states(session.stateful_parts),
    }


def restore(run: RunFolder, session: TrainState) -> TrainingProgress:
    """Restore the last complete epoch of the run, and write the files that a kill left unwritten.

    Args:
        run: the run folder.
        session: the run; its state is replaced.

    Returns:
        The progress; that of epoch 0 before the first complete epoch.

    Raises:
        RunError: the checkpoint is damaged, or the network has changed since.
    """

    def load(state: dict[str, Any]) -> TrainingProgress:
        _check_same_network(session, state["model"], run / NAME)
        session.model.load_state_dict(state["model"])
        session.optimizer.load_state_dict(state["optimizer"])
        session.scheduler.load_state_dict(state["scheduler"])
        per_example_state.restore(session.stateful_parts, state["memory"])
        return TrainingProgress(**state["progress"])

    def publish(progress: TrainingProgress) -> None:
        _publish(run, session, progress)

    return restore_checkpoint(run, (BEST, LAST), load, publish, session.ranks) or TrainingProgress()


def _check_same_network(session: TrainState, saved: Mapping[str, Tensor], file: Path) -> None:
    """Raise unless the network has the shapes of the checkpoint: the user's own code may have changed."""
    then, now = _shapes(saved), _shapes(session.model.state_dict())
    other = next((name for name in [*then, *now] if then.get(name) != now.get(name)), None)
    if other is not None:
        was, is_now = (f"of shape {shapes[other]}" if other in shapes else "not there" for shapes in (then, now))
        raise RunError(
            f"{file}: {other!r} of {session.config.model.name} was {was} when the run began and is {is_now} now; "
            "restore the network as it was, or train in another folder"
        )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _publish(run: RunFolder, session: TrainState, progress: TrainingProgress) -> None:
    run.save_model(session.saved_model, LAST)
    if progress.best_epoch in (progress.epoch, 0):  # a run that learned nothing has a model too, its last
        run.save_model(session.saved_model, BEST)
    append_missing(run, [*progress.log, progress.record])

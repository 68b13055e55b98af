"""The checkpoint of language training: a round's progress, and the state of the session after it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from advreg.distributed import current_ranks
from advreg.language.models.adapters import WEIGHTS as ADAPTER
from advreg.language.models.adapters import save_adapter
from advreg.language.models.saving import save_pretrained
from advreg.language.training.collapse_monitor import CollapseProbe
from advreg.language.training.folder import WHOLE
from advreg.language.training.setup import LanguageTrainState
from advreg.runs import RunFolder
from advreg.trainer.checkpoint import append_missing, commit_checkpoint, read_checkpoint, restore_checkpoint


@dataclass(frozen=True)
class LanguageTrainingProgress:
    """Progress of training after a complete round.

    Attributes:
        step: steps done.
        stopped: why the guard ended training; empty where it did not.
        lines: lines of metrics.jsonl of the round.
        before: the collapse probe before training; None without a guard.
    """

    step: int = 0
    stopped: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    before: CollapseProbe | None = None


def commit(run: RunFolder, session: LanguageTrainState, progress: LanguageTrainingProgress) -> None:
    """Write a complete round: the checkpoint first, then the files that follow from it.

    Args:
        run: the run folder.
        session: the run.
        progress: progress after the round.
    """
    commit_checkpoint(run, lambda: _state(session, progress), lambda: _publish(run, session, progress), current_ranks())


def _state(session: LanguageTrainState, progress: LanguageTrainingProgress) -> dict[str, Any]:
    return {
        "progress": asdict(progress),
        "weights": session.trainable_weights,
        "optimizer": session.optimizer.state_dict(),
        "average": session.average.state_dict() if session.average else {},
    }


def restore(run: RunFolder, session: LanguageTrainState) -> LanguageTrainingProgress | None:
    """Restore the last complete round of the run, and write the files that a kill left unwritten.

    Args:
        run: the run folder.
        session: the run; its state is replaced.

    Returns:
        The progress; None before the first complete round.

    Raises:
        RunError: the checkpoint is damaged.
    """

    def publish(progress: LanguageTrainingProgress) -> None:
        _publish(run, session, progress)

    return restore_checkpoint(run, (ADAPTER, WHOLE), lambda state: _load(session, state), publish, current_ranks())


def roll_back(run: RunFolder, session: LanguageTrainState) -> LanguageTrainingProgress:
    """Restore the last complete round of the run; no file is written.

    Args:
        run: the run folder.
        session: the run; its state is replaced.

    Raises:
        RunError: the checkpoint is damaged.
    """
    with read_checkpoint(run) as state:
        return _load(session, state)


@torch.no_grad()
def _load(session: LanguageTrainState, state: dict[str, Any]) -> LanguageTrainingProgress:
    for name, weight in session.trainable_weights.items():
        weight.copy_(state["weights"][name])
    session.optimizer.load_state_dict(state["optimizer"])
    if session.average is not None:
        session.average.load_state_dict(state["average"])
    before = state["progress"].pop("before")
    return LanguageTrainingProgress(**state["progress"], before=before and CollapseProbe(**before))


def _publish(run: RunFolder, session: LanguageTrainState, progress: LanguageTrainingProgress) -> None:
    with session.averaged(progress.step):
        (save_adapter if session.config.model.rank else save_pretrained)(session.lm, run)
    append_missing(run, progress.lines)

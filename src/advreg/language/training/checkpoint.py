"""What a run has reached, on disk: one file is the truth, the weights and the metrics follow from it.

The weights and the lines of metrics are written after ``checkpoint.pt`` and again on resume, so a kill between any two writes
loses nothing and doubles nothing.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from advreg.language.training.collapse_monitor import CollapseProbe
from advreg.language.training.folder import ADAPTER, METRICS, WHOLE, save_weights
from advreg.language.training.setup import LanguageTrainState
from advreg.runs import RunFolder
from advreg.runs.files import remove_leftovers
from advreg.trainer.checkpoint import NAME, append_missing, read_checkpoint, write_checkpoint


@dataclass(frozen=True)
class LanguageTrainingProgress:
    """Where training stands.

    Attributes:
        step: steps done.
        stopped: why the guard ended training; empty where it did not.
        lines: lines of metrics.jsonl that belong to this.
        before: the pulse before training, None without a guard.
    """

    step: int = 0
    stopped: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    before: CollapseProbe | None = None


def commit(run: RunFolder, session: LanguageTrainState, progress: LanguageTrainingProgress) -> None:
    """Write down where training stands: the checkpoint first, then what follows from it."""
    state = {
        "progress": asdict(progress),
        "weights": session.learning,
        "optimizer": session.optimizer.state_dict(),
        "average": session.average.state_dict() if session.average else {},
    }
    write_checkpoint(run, state)
    _publish(run, session, progress)


def restore(run: RunFolder, session: LanguageTrainState) -> LanguageTrainingProgress | None:
    """Bring the session to where the run's checkpoint is, and finish writing what a kill left unwritten; None without one.

    Raises:
        RunError: the checkpoint is damaged.
    """
    remove_leftovers(run.path, (NAME, ADAPTER, WHOLE))
    if not (run / NAME).exists():
        return None
    progress = load(run, session)
    _publish(run, session, progress)
    return progress


def load(run: RunFolder, session: LanguageTrainState) -> LanguageTrainingProgress:
    """Bring the session to where the run's checkpoint is.

    Raises:
        RunError: the checkpoint is damaged.
    """
    with read_checkpoint(run) as state:
        with torch.no_grad():
            for name, weight in session.learning.items():
                weight.copy_(state["weights"][name])
        session.optimizer.load_state_dict(state["optimizer"])
        if session.average is not None:
            session.average.load_state_dict(state["average"])
        before = state["progress"].pop("before")
        return LanguageTrainingProgress(**state["progress"], before=before and CollapseProbe(**before))


def _publish(run: RunFolder, session: LanguageTrainState, progress: LanguageTrainingProgress) -> None:
    with session.average.in_place() if session.average and progress.step else nullcontext():
        save_weights(session.lm, run, session.config.model.rank)
    append_missing(run, METRICS, progress.lines, _key)


def _key(line: dict[str, Any]) -> tuple[object, object]:
    return line.get("event"), line.get("step")

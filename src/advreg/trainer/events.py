"""Events of training: frozen records that are passed to a callback, so that the library prints nothing.

Image and language training emit the same events. ``step`` and ``steps`` count within an epoch; language training counts steps
alone, so its run is one epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advreg._deprecation import renamed_attribute
from advreg._lazy import deprecated


@dataclass(frozen=True)
class Started:
    """Training begins or continues.

    Attributes:
        out: the run folder.
        epochs, steps: epochs in all, and steps of each.
        seconds: estimate for what is left, measured on a few steps; 0 without a measurement.
        step: steps of the whole run that are done.
        left_out: examples that training leaves out, such as texts longer than ``data.tokens``.
    """

    out: Path
    epochs: int
    steps: int
    seconds: float = 0.0
    step: int = 0
    left_out: int = 0

    @property
    def is_complete(self) -> bool:
        """Return whether nothing is left to train."""
        return self.step >= self.epochs * self.steps


@dataclass(frozen=True)
class Resumed:
    """An interrupted run continues after its last complete epoch."""

    epoch: int


@dataclass(frozen=True)
class Step:
    """Some steps of an epoch are done.

    Attributes:
        epoch, step, steps: number of the epoch, steps done in it, and its steps in all.
        loss: mean loss of the training examples: of the epoch so far (images), or of this step (language).
        train_accuracy: accuracy on the training examples of the epoch so far; None for language.
        seconds_left: estimate for the rest of the round; None where it was not measured.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    train_accuracy: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class Guarded:
    """The guard detected a problem.

    Attributes:
        epoch, step: time of the detection.
        trouble: catastrophic overfitting, label leaking, divergence, not learning or collapse.
        message: what was detected.
        action: what the guard did.
    """

    epoch: int
    step: int
    trouble: str
    message: str
    action: str
    said = renamed_attribute("said", "message")


@dataclass(frozen=True)
class Checkpointed:
    """A round is complete and written.

    Attributes:
        epoch, epochs: number of the epoch, and of all epochs.
        step, steps: steps done in the epoch, and its steps in all.
        record: the round's line of metrics.jsonl.
        best: whether its weights are the best so far.
        seconds_left: estimate from the rounds of this process; 0 where it was not measured.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    record: dict[str, Any]
    best: bool = False
    seconds_left: float = 0.0


@dataclass(frozen=True)
class Finished:
    """Training is complete, or the guard ended it.

    Attributes:
        epochs: epochs in all.
        best_epoch: epoch of the weights in model.safetensors; 1 for language.
        step, steps: steps done in the last epoch, and its steps in all.
    """

    epochs: int
    best_epoch: int
    step: int
    steps: int


@dataclass(frozen=True)
class Failed:
    """Training was interrupted or failed; every complete round is kept.

    Attributes:
        message: the exception in one line.
    """

    message: str
    said = renamed_attribute("said", "message")


Event = Started | Resumed | Step | Guarded | Checkpointed | Finished | Failed
OnEvent = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """Do nothing: the callback where none was given.

    Args:
        event: any event.
    """


if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__, {"EpochEnd": "Checkpointed"})

"""Events of training: frozen records that are passed to a callback, so that the library prints nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Started:
    """Training is about to begin.

    Attributes:
        out: the run folder.
        epochs, steps: epochs in all, and steps of each.
        seconds: estimate for what is left, measured on a few steps; 0 when nothing is left.
    """

    out: Path
    epochs: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class Resumed:
    """An interrupted run continues after its last complete epoch."""

    epoch: int


@dataclass(frozen=True)
class Step:
    """Some steps of an epoch are done; loss and accuracy are those of the epoch so far, on the training examples."""

    epoch: int
    step: int
    steps: int
    loss: float
    train_accuracy: float


@dataclass(frozen=True)
class Guarded:
    """The guard detected a problem.

    Attributes:
        epoch, step: time of the detection.
        trouble: catastrophic overfitting, label leaking, divergence or not learning.
        message: what was detected.
        action: what the guard did.
    """

    epoch: int
    step: int
    trouble: str
    message: str
    action: str


@dataclass(frozen=True)
class EpochEnd:
    """An epoch is complete and written.

    Attributes:
        epoch, epochs: number of the epoch, and of all epochs.
        record: its line of metrics.jsonl.
        best: whether its weights are the best so far.
        seconds_left: estimate from the epochs of this process.
    """

    epoch: int
    epochs: int
    record: dict[str, Any]
    best: bool
    seconds_left: float


@dataclass(frozen=True)
class Finished:
    """Training is complete; model.safetensors holds the weights of ``best_epoch``."""

    epochs: int
    best_epoch: int


@dataclass(frozen=True)
class Failed:
    """Training was interrupted or failed; every complete epoch is kept.

    Attributes:
        message: the exception in one line.
    """

    message: str


Event = Started | Resumed | Step | Guarded | EpochEnd | Finished | Failed
OnEvent = Callable[[Event], None]

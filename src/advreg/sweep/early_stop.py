"""Early stop of hopeless trials: those that learn nothing, and those below the median of the others in both accuracies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from advreg.trainer.events import Checkpointed, Event, Guarded
from advreg.training.learning import NOT_LEARNING

Row = Mapping[str, Any]
FEWEST = 3  # complete trials with which an epoch is compared


class HopelessTrial(Exception):
    """The trial was stopped; its message is the reason."""


class EarlyStop:
    """Callback of a training that raises `HopelessTrial`.

    Args:
        finished: rows of complete trials of the same length, for the comparison of epochs.
        compares: whether epochs are compared: not where the trials validate at different eps.
    """

    def __init__(self, finished: Sequence[Row], *, compares: bool) -> None:
        self.finished, self.compares = finished, compares

    def __call__(self, event: Event) -> None:
        """Raise if the trial is hopeless after this event.

        Raises:
            HopelessTrial: the guard reports that nothing is learned, or both accuracies are below the median.
        """
        if isinstance(event, Guarded) and event.trouble == NOT_LEARNING and not event.action.startswith("restarted"):
            raise HopelessTrial(event.message)
        if isinstance(event, Checkpointed) and self.compares and event.epoch < event.epochs:
            reason = below_median(self.finished, event.epoch, event.epochs, accuracies(event.record))
            if reason is not None:
                raise HopelessTrial(reason)


def accuracies(record: Row) -> tuple[float, float]:
    """Return clean and robust accuracy of an epoch; 0 where they were not measured.

    Args:
        record: a line of metrics.jsonl.

    Example:
        >>> accuracies({"clean_accuracy": 0.9, "robust_accuracy": None})
        (0.9, 0.0)
    """
    return float(record["clean_accuracy"] or 0.0), float(record["robust_accuracy"] or 0.0)


def below_median(finished: Sequence[Row], epoch: int, epochs: int, now: tuple[float, float]) -> str | None:
    """Return the reason to stop, that both accuracies are below the median of complete trials after this epoch, or None.

    A trial is compared from a third of its epochs on, with at least three complete trials of the same length.

    Args:
        finished: rows with the key ``curve``, clean and robust accuracy after each epoch.
        epoch: number of the epoch, from 1.
        epochs: epochs of the trial.
        now: clean and robust accuracy after the epoch.

    Returns:
        The reason, or None.

    Example:
        >>> rows = [{"curve": [[0.9, 0.4], [0.9, 0.5], [0.9, 0.6]]}] * 3
        >>> below_median(rows, 1, 3, (0.8, 0.3))
        'after epoch 1, clean 80.0% and robust 30.0% are below the medians 90.0% and 40.0% of 3 trials'
        >>> below_median(rows, 1, 3, (0.8, 0.45))
    """
    others = [row["curve"][epoch - 1] for row in finished if len(row["curve"]) == epochs]
    if len(others) < FEWEST or epoch < math.ceil(epochs / 3):
        return None
    typical = tuple(median(each[k] for each in others) for k in (0, 1))
    if not (now[0] < typical[0] and now[1] < typical[1]):
        return None
    medians = f"the medians {typical[0]:.1%} and {typical[1]:.1%} of {len(others)} trials"
    return f"after epoch {epoch}, clean {now[0]:.1%} and robust {now[1]:.1%} are below {medians}"

"""The position of a step in training, which schedules, averages and policies depend on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """Position of a step in training.

    Attributes:
        epoch: number of the epoch, from 1.
        step: steps taken so far in the whole run.
        steps: steps of the whole run.

    Example:
        >>> Moment(epoch=1, step=4, steps=10).progress
        0.45
    """

    epoch: int
    step: int
    steps: int

    @property
    def progress(self) -> float:
        """Share of training that is done at the middle of the step, as schedules count it."""
        return (self.step + 0.5) / self.steps

"""Attempts on the examples of one class only, such as fraud that should pass as no fraud."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from advreg.attacks.result import AttackResult
from advreg.attacks.scoreboard import Scoreboard
from advreg.attacks.search import Attempt, QuerySpec
from advreg.errors import ConfigError
from advreg.objectives import labels_of
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel


def reject_direction(direction: int | None, task: Task) -> None:
    """Raise for a direction in a task without classes.

    Args:
        direction: the attacked class, or None.
        task: what an output is worth.

    Raises:
        ConfigError: a direction in another task than classification.
    """
    if direction is not None and task is not CLASSES:
        raise ConfigError(f"direction is {direction}, a class, and the task is {task.name}; leave direction out")


def only_class(attempt: Attempt, label: int | None, spec: QuerySpec) -> Attempt:
    """Return an attempt that attacks the examples with this label, and leaves the others at their clean points.

    Args:
        attempt: the attempt of `advreg.attacks.search.search`.
        label: the attacked class; None for all, which returns the attempt unchanged.
        spec: model and objective.

    Returns:
        The attempt.

    Example:
        >>> only_class(print, None, None) is print
        True
    """
    if label is None:
        return attempt

    def limited(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: Any) -> AttackResult:
        rows = (labels_of(y) == label).nonzero()[:, 0]
        untouched = Scoreboard(spec, x, y, threat).result()
        if not len(rows):
            return untouched
        return untouched.improved_by(attempt(x[rows], y[rows], threat.select(rows), ids[rows], restart), rows)

    return limited

"""Tasks by name, as the command line and run.toml write them: ``labels``, ``number:tolerance=0.5``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from advreg.errors import ConfigError, did_you_mean
from advreg.tasks.boxes import boxes
from advreg.tasks.classes import CLASSES
from advreg.tasks.labels import labels
from advreg.tasks.numbers import number, ordinal
from advreg.tasks.pairs import pairs
from advreg.tasks.pixels import pixels
from advreg.tasks.task import Task

TASKS: Mapping[str, Callable[..., Task]] = {
    "classes": lambda: CLASSES,
    "labels": labels,
    "ordinal": ordinal,
    "number": number,
    "pixels": pixels,
    "boxes": boxes,
    "pairs": pairs,
}
"""The tasks by name; each is a function of its options."""


def as_task(task: Task | str) -> Task:
    """Return a task, made from its name and options where text is given.

    Args:
        task: a task, or text such as ``"labels"``, ``"pixels:ignore=0"`` or ``"number:tolerance=0.5"``.

    Returns:
        The task.

    Raises:
        ConfigError: no such task, or an option that it does not have or lacks.

    Example:
        >>> as_task("number:tolerance=0.5"), as_task("classes") is CLASSES
        (Task(number-0.5: above, below), True)
    """
    if isinstance(task, Task):
        return task
    if not isinstance(task, str):
        raise ConfigError(f"task is a {type(task).__name__}; give a Task, or a name: {', '.join(TASKS)}")
    name, _, rest = task.partition(":")
    given = dict(part.partition("=")[::2] for part in rest.split(";") if part)
    return make_task(name, {key.strip(): _value(text) for key, text in given.items()})


def make_task(name: str, options: Mapping[str, Any]) -> Task:
    """Return the task of this name with these options.

    Args:
        name: a key of `TASKS`.
        options: its options by name.

    Returns:
        The task.

    Raises:
        ConfigError: no such task, or an option that it does not have or lacks.

    Example:
        >>> make_task("labels", {"score": "share"})
        Task(labels-share: bce, nearest)
    """
    if name not in TASKS:
        raise ConfigError(f"task is {name!r}; allowed: {', '.join(TASKS)}.{did_you_mean(name, TASKS)}")
    parameters = inspect.signature(TASKS[name]).parameters
    known = ", ".join(parameters) or "none"
    extra = next((key for key in options if key not in parameters), None)
    if extra is not None:
        raise ConfigError(f"task {name} has no option {extra!r}; it has: {known}")
    missing = next((key for key, p in parameters.items() if p.default is p.empty and key not in options), None)
    if missing is not None:
        raise ConfigError(f"task {name} needs {missing}: --task {name}:{missing}=..., or {missing} in [task.options]")
    try:
        return TASKS[name](**options)
    except (TypeError, ValueError) as cause:
        if isinstance(cause, ConfigError):
            raise
        raise ConfigError(f"task {name}: {', '.join(f'{k} is {v!r}' for k, v in options.items())}: {cause}") from cause


def _value(text: str) -> Any:
    """Return an option's value: a number, numbers separated by commas, or the text."""
    parts = text.strip().split(",")
    try:
        numbers: list[float] = [int(part) if part.strip().lstrip("-").isdigit() else float(part) for part in parts]
    except ValueError:
        return text.strip()
    return numbers[0] if len(numbers) == 1 else numbers

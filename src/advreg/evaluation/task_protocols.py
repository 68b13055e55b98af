"""Protocols of tasks other than classification: Auto-PGD on each objective of the task, then a search without gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from advreg import attacks
from advreg.errors import ConfigError
from advreg.tasks import Task

Attack = Callable[..., Any]
Entry = tuple[str, Attack, float, bool]
"""Name, attack, share of the survivors that it begins with, and whether it uses gradients."""


def entries_of(protocol: str, task: Task) -> tuple[int, tuple[Entry, ...]]:
    """Return version and attacks of a protocol for a task.

    Args:
        protocol: ``quick``, ``standard``, ``strong``, ``basic``, ``fgsm`` or ``blackbox``.
        task: what an output is worth; its objectives are attacked one after the other.

    Returns:
        The version, raised whenever the list changes, and the attacks in order.

    Raises:
        ConfigError: a protocol that classification alone has.

    Example:
        >>> from advreg.tasks import number
        >>> [name for name, *_ in entries_of("quick", number(0.5))[1]]
        ['apgd-above', 'apgd-below', 'square']
    """
    made: dict[str, Callable[[Task], tuple[Entry, ...]]] = {
        "fgsm": lambda task: (_on_loss("fgsm", attacks.fgsm, task),),
        "basic": lambda task: (
            _on_loss("fgsm", attacks.fgsm, task),
            _on_loss("pgd-40", partial(attacks.pgd, steps=40), task),
        ),
        "quick": lambda task: (*_climb(task, steps=20), _square(100, nearest=0.1)),
        "standard": lambda task: (*_climb(task, steps=100), _square(1000)),
        "strong": lambda task: (*_climb(task, steps=100, restarts=3), _square(2000)),
        "blackbox": lambda task: (
            ("random-search", partial(attacks.random_search, queries=100), 1.0, False),
            _square(5000),
        ),
    }
    if protocol not in made:
        raise ConfigError(
            f"protocol {protocol!r} is for classes; task {task.name} has {', '.join(made)}, or give your own Protocol"
        )
    return 1, made[protocol](task)


def _climb(task: Task, *, steps: int, restarts: int = 1) -> tuple[Entry, ...]:
    return tuple(
        (f"apgd-{name}", partial(attacks.apgd, steps=steps, restarts=restarts, objective=objective), 1.0, True)
        for name, objective in task.objectives.items()
    )


def _on_loss(name: str, attack: Attack, task: Task) -> Entry:
    return name, partial(attack, objective=task.training_loss), 1.0, True


def _square(queries: int, nearest: float = 1.0) -> Entry:
    return "square", partial(attacks.square, queries=queries), nearest, False

"""Protocols of tasks other than classification: Auto-PGD on each objective of the task, then a search without gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from advreg import attacks
from advreg.attacks import AttackResult
from advreg.attacks.model import Model
from advreg.errors import ConfigError
from advreg.tasks import CLASSES, Task, pixels
from advreg.threat import ThreatModel

Attack = Callable[..., Any]
Entry = tuple[str, Attack, float, bool]
"""Name, attack, share of the survivors that it begins with, and whether it uses gradients."""


def entries_of(protocol: str, task: Task, *, limited: bool = False) -> tuple[int, tuple[Entry, ...]]:
    """Return version and attacks of a protocol for a task.

    Args:
        protocol: ``quick``, ``standard``, ``strong``, ``basic``, ``fgsm`` or ``blackbox``; ``sea`` in segmentation.
        task: what an output is worth; its objectives are attacked one after the other.
        limited: whether the threat limits single features: the search then keeps rules, and gradients follow them.

    Returns:
        The version, raised whenever the list changes, and the attacks in order.

    Raises:
        ConfigError: a protocol that classification alone has.

    Example:
        >>> from advreg.tasks import number
        >>> [name for name, *_ in entries_of("quick", number(0.5))[1]]
        ['apgd-above', 'apgd-below', 'score-search']
        >>> [name for name, *_ in entries_of("quick", number(0.5), limited=True)[1]]
        ['capgd-above', 'capgd-below', 'mutate']

    Reference: Croce, Singh, Hein, "Towards reliable evaluation and fast training of robust semantic segmentation models", ECCV
    2024, arXiv:2306.12941, for ``sea``: 300 steps on each objective, in balls of 2, 1.5 and 1 eps.
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
    if limited:
        made |= {name: partial(_on_features, queries=queries) for name, queries in _QUERIES.items()}
        made["blackbox"] = lambda task: _on_features(task, 2000)[-1:]
    elif task.name.startswith(pixels().name):
        made["sea"] = lambda task: _climb(task, steps=300, large_eps=True)
    if protocol not in made:
        raise ConfigError(
            f"protocol {protocol!r} is not one of task {task.name}, which has {', '.join(made)}; or give your own Protocol"
        )
    return 2 if limited and protocol not in ("fgsm", "basic") else 1, made[protocol](task)


_QUERIES = {"quick": 400, "standard": 400, "strong": 2000}
"""Queries of the search that keeps the rules of features."""


def _climb(task: Task, **options: Any) -> tuple[Entry, ...]:
    return tuple(
        (f"apgd-{name}", partial(attacks.apgd, objective=objective, **options), 1.0, True)
        for name, objective in task.objectives.items()
    )


def _on_features(task: Task, queries: int) -> tuple[Entry, ...]:
    """Return the list for threats with units or rules of single features: each of the two finds what the other misses."""
    climbs = [
        (f"capgd-{name}", partial(attacks.capgd, objective=each), 1.0, True) for name, each in task.objectives.items()
    ]
    return (*climbs, ("mutate", partial(attacks.mutate, queries=queries), 1.0, False))


def _on_loss(name: str, attack: Attack, task: Task) -> Entry:
    return name, partial(attack, objective=task.training_loss), 1.0, True


def _square(queries: int, nearest: float = 1.0) -> Entry:
    return "score-search", partial(score_search, queries=queries), nearest, False


def score_search(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    queries: int,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
    task: Task = CLASSES,
) -> AttackResult:
    """Search without gradients: Square, or mutation where the threat limits single features, which Square cannot keep.

    Args:
        model: any function from inputs ``(B, ...)`` to outputs ``(B, ...)``.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: targets ``(B, ...)``.
        threat: norm, eps and box of the adversary.
        queries: forwards of an example.
        ids: example ids ``(B,)``, on which the random draws depend.
        seed: seed of the random draws.
        batch_size: number of examples attacked at a time.
        task: what an output is worth.

    Returns:
        An `AttackResult`, verified on the original model.

    Example:
        >>> import torch
        >>> model, x, y = torch.nn.Linear(4, 3).eval(), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> score_search(model, x, y, ThreatModel("linf", 0.1), queries=5).backwards
        0
    """
    attack: Attack = attacks.square if threat.limits is None else attacks.mutate
    found: AttackResult = attack(
        model, x, y, threat, queries=queries, ids=ids, seed=seed, batch_size=batch_size, task=task
    )
    return found

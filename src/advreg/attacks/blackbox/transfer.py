"""Transfer: attack a model of one's own, try the points on somebody else's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.pgd import pgd
from advreg.attacks.result import AttackResult
from advreg.attacks.scoreboard import Scoreboard
from advreg.attacks.search import QuerySpec, search
from advreg.objectives import margin
from advreg.threat import ThreatModel

Attack = Callable[..., Any]
"""``(model, x, y, threat, *, ids, seed) -> result`` with ``x_adv``; one with ``cost`` is charged for it."""

_TO_THE_END = functools.partial(pgd, early_stop=False)
"""Points that barely fool the surrogate do not travel: raise its loss to the end."""


def transfer(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    surrogate: Model,
    attack: Attack = _TO_THE_END,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> AttackResult:
    """Attack ``surrogate`` and let ``model`` judge the points: a model that hides its gradient falls to another's.

    An example that stands costs two forwards of ``model`` and what ``attack`` spends on the surrogate.

    Args:
        model: any function from ``(B, ...)`` to scores ``(B, K)``; in eval mode if it is a module.
        x: clean inputs ``(B, ...)`` in the threat's box.
        y: labels ``(B,)``; the wanted classes if targeted.
        threat: what the adversary may do.
        surrogate: the model whose gradient is used, with the same classes.
        attack: an attack with its options bound; 40 steps of PGD on the cross-entropy, all of them, if not given.
        targeted: whether ``y`` is the class the adversary wants.
        ids: example ids ``(B,)``, on which the random draws depend.
        seed: seed of the random draws.
        batch_size: examples under attack at a time.

    Returns:
        An `AttackResult`, judged by ``model``; its cost counts the passes of both models.

    Raises:
        ModelError, DataError: models or inputs that cannot be used as given.

    Example:
        >>> model, other = torch.nn.Linear(4, 3).eval(), torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> transfer(model, x, y, ThreatModel("linf", 0.1), surrogate=other).x_adv.shape
        torch.Size([2, 4])

    Reference: Papernot et al., "Practical black-box attacks against machine learning", AsiaCCS 2017.
    """
    ask, surrogate = QuerySpec(bind_dtype(model, x), margin, targeted), bind_dtype(surrogate, x)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, _: int) -> AttackResult:
        options = {"targeted": True} if targeted else {}
        found = attack(surrogate, x, y, threat, ids=ids, seed=seed, **options)
        board = Scoreboard(ask, x, y, threat)
        board.cost += getattr(found, "cost", torch.zeros_like(board.cost))
        board.submit(torch.arange(len(x), device=x.device), found.x_adv)
        return board.result()

    return search(ask, x, y, threat, attempt, ids=ids, early_stop=early_stop, batch_size=batch_size)

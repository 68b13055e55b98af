"""Transfer attack: attack a surrogate and verify the points on the model."""

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
"""``(model, x, y, threat, *, ids, seed) -> result`` with ``x_adv``, and with ``cost`` if its passes count."""

_PGD_WITHOUT_EARLY_STOP = functools.partial(pgd, early_stop=False)
"""Points that barely fool the surrogate do not transfer, so its loss is maximised in all steps."""


def transfer(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    surrogate: Model,
    attack: Attack = _PGD_WITHOUT_EARLY_STOP,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> AttackResult:
    """Attack ``surrogate`` and verify the points on ``model``; a hidden gradient does not protect a model from it.

    An example that survives costs two forwards of ``model`` and what ``attack`` spends on the surrogate.

    Args:
        model: any function from inputs ``(B, ...)`` to scores ``(B, K)``; a module must be in eval mode.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        surrogate: the model that supplies the gradient, with the same classes; must be in eval mode.
        attack: an attack with its options bound; PGD with 40 steps on the cross-entropy, without early stop, by default.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether clean errors are left alone; with False the surrogate is attacked for them, too.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random draws.
        batch_size: number of examples attacked at a time.

    Returns:
        An `AttackResult`, verified on ``model``; its cost counts the passes of both models.

    Raises:
        ModelError: a model in train mode, or wrong output.
        DataError: inputs that do not fit the box or the labels.

    Example:
        >>> model, other = torch.nn.Linear(4, 3).eval(), torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> transfer(model, x, y, ThreatModel("linf", 0.1), surrogate=other).x_adv.shape
        torch.Size([2, 4])

    Reference: Papernot et al., "Practical black-box attacks against machine learning", AsiaCCS 2017, arXiv:1602.02697.
    """
    spec, surrogate = QuerySpec(bind_dtype(model, x), margin, targeted), bind_dtype(surrogate, x)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, _: int) -> AttackResult:
        options = {"targeted": True} if targeted else {}
        found = attack(surrogate, x, y, threat, ids=ids, seed=seed, **options)
        board = Scoreboard(spec, x, y, threat)
        board.cost += getattr(found, "cost", torch.zeros_like(board.cost))
        board.submit(torch.arange(len(x), device=x.device), found.x_adv)
        return board.result()

    return search(spec, x, y, threat, attempt, ids=ids, early_stop=early_stop, batch_size=batch_size)

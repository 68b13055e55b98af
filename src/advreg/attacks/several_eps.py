"""One attack at several eps in one call: a point that breaks an example at one eps breaks it at every larger one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from advreg.attacks.inputs import read_batch, read_ids
from advreg.attacks.model import Model
from advreg.attacks.result import AttackResult
from advreg.errors import ConfigError
from advreg.threat import ThreatModel


def attack_at_each_eps(
    attack: Callable[..., AttackResult],
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    eps: Sequence[float],
    ids: Tensor | None = None,
    seed: int = 0,
    **options: Any,
) -> list[AttackResult]:
    """Run an attack at several eps, from the smallest up, each on the survivors of the smaller ones.

    Robust accuracy never rises with eps, and an example costs nothing beyond the eps that breaks it.

    Args:
        attack: an attack of this package, or a function of the same signature that returns an `AttackResult`.
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)``.
        threat: norm and box; its own eps is not used.
        eps: the radii, in any order.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random draws.
        options: further options of the attack.

    Returns:
        A result for each eps, in the order given; its cost is the total up to this eps.

    Raises:
        ConfigError: no eps.
        ThreatError, DataError, ModelError: as the attack raises them.

    Example:
        >>> import torch
        >>> from advreg.attacks import fgsm
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
        >>> x, y = torch.rand(8, 1, 2, 2), torch.tensor([0, 1] * 4)
        >>> found = attack_at_each_eps(fgsm, net, x, y, ThreatModel("linf", 0.1), eps=[0.3, 0.1])
        >>> [len(each.broken) for each in found], found[0].robust_accuracy <= found[1].robust_accuracy
        ([8, 8], True)
    """
    if not len(eps):
        raise ConfigError("eps is empty; give one radius or more, such as eps=[0.1, 0.2]")
    x, y = read_batch(x, y, threat)
    ids = read_ids(ids, x)
    radii = sorted({float(value) for value in eps})
    result = attack(model, x, y, threat.with_eps(radii[0]), ids=ids, seed=seed, **options)
    found = {radii[0]: result}
    for radius in radii[1:]:
        rows = (~result.broken).nonzero()[:, 0]
        if len(rows):
            ball = threat.with_eps(radius)
            result = result.improved_by(
                attack(model, x[rows], y[rows], ball, ids=ids[rows], seed=seed, **options), rows
            )
        found[radius] = result
    return [found[float(value)] for value in eps]

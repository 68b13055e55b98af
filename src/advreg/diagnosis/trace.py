"""PGD followed step by step: loss and verdict at every iterate, by listening to what the attack maximises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advreg.attacks import AttackResult, pgd
from advreg.objectives import Objective, correct, cross_entropy
from advreg.threat import ThreatModel


@dataclass(frozen=True)
class Trace:
    """One run of PGD without early stop.

    Attributes:
        loss: at the start and after each step ``(steps + 1, B)``.
        fooled: whether the model was wrong there ``(steps + 1, B)``.
        result: what the attack returned.
    """

    loss: Tensor
    fooled: Tensor
    result: AttackResult


def traced(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, ids: Tensor, seed: int, steps: int = 40
) -> Trace:
    """Run PGD to its end and keep what the model answered on the way.

    The objective is asked once for the clean points, once at each of ``steps + 1`` iterates, and once by the judge.
    """
    losses: list[Tensor] = []
    fooled: list[Tensor] = []

    def heard(objective: Objective) -> Objective:
        def listening(logits: Tensor, labels: Tensor) -> Tensor:
            loss = objective(logits, labels)
            losses.append(loss.detach().clone())
            fooled.append(~correct(logits.detach(), labels))
            return loss

        return listening

    result = pgd(
        model, x, y, threat, steps=steps, objective=heard(cross_entropy), early_stop=False,
        ids=ids, seed=seed, batch_size=len(x),
    )  # fmt: skip
    return Trace(torch.stack(losses[1 : steps + 2]), torch.stack(fooled[1 : steps + 2]), result)

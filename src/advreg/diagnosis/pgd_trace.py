"""Trace PGD: loss, margin and misclassification at every iterate, recorded by the objective that the attack maximises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advreg.attacks import AttackResult, pgd
from advreg.objectives import Objective, correct, cross_entropy, margin
from advreg.threat import ThreatModel


@dataclass(frozen=True)
class Trace:
    """One run of PGD without early stop.

    Attributes:
        loss: at the start and after each step ``(steps + 1, B)``.
        margin: margin at the same points ``(steps + 1, B)``, negative where the model is right.
        fooled: whether the model is wrong there ``(steps + 1, B)``.
        result: result of the attack.
    """

    loss: Tensor
    margin: Tensor
    fooled: Tensor
    result: AttackResult


def trace_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    ids: Tensor,
    seed: int,
    steps: int = 40,
    step_size: float | None = None,
) -> Trace:
    """Run PGD without early stop and record the loss at every iterate.

    The objective is evaluated once for the clean points, once at each of ``steps + 1`` iterates, and once to verify the result.

    Args:
        model: the original.
        x: clean inputs ``(B, ...)``.
        y: labels ``(B,)``.
        threat: norm, eps and box.
        ids: example ids ``(B,)``, on which the random starts depend.
        seed: seed of the random starts.
        steps: steps of PGD.
        step_size: step size of PGD; its own default if None.

    Returns:
        The trace; its tensors have ``steps + 1`` rows.

    Example:
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> trace_pgd(nn.Linear(4, 3).eval(), x, y, ThreatModel("linf", 0.1), ids=torch.arange(2), seed=0, steps=5).loss.shape
        torch.Size([6, 2])
    """
    losses: list[Tensor] = []
    margins: list[Tensor] = []
    fooled: list[Tensor] = []

    def recorder(objective: Objective) -> Objective:
        def record(logits: Tensor, labels: Tensor) -> Tensor:
            loss = objective(logits, labels)
            losses.append(loss.detach().clone())
            margins.append(margin(logits.detach(), labels))
            fooled.append(~correct(logits.detach(), labels))
            return loss

        return record

    result = pgd(
        model,
        x,
        y,
        threat,
        steps=steps,
        step_size=step_size,
        objective=recorder(cross_entropy),
        early_stop=False,
        ids=ids,
        seed=seed,
        batch_size=len(x),
    )
    iterates = slice(1, steps + 2)
    return Trace(torch.stack(losses[iterates]), torch.stack(margins[iterates]), torch.stack(fooled[iterates]), result)


def late_gain(trace: Trace, last: int = 10) -> float:
    """Return the share of the margin gained that the last steps gain, averaged over the survivors.

    The margin is used because the cross-entropy is curved: its last steps weigh more the nearer they come to the boundary.

    Args:
        trace: trace of the attack.
        last: number of last steps.
    """
    best = trace.margin.cummax(0).values
    gained, late = best[-1] - best[0], best[-1] - best[-1 - last]
    survivors = ~trace.result.broken & (gained > 0)
    return float((late[survivors] / gained[survivors]).mean()) if bool(survivors.any()) else 0.0

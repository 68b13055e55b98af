"""Adversarial logit pairing: clean and attacked inputs get similar logits."""

from __future__ import annotations

from torch import Tensor, nn

from advreg.tasks import as_task
from advreg.threat import ThreatModel
from advreg.training.recipes.base import (
    Attack,
    Recipe,
    Smoothing,
    Weight,
    check_loss,
    clean_and_adversarial_logits,
    pairing,
    worst_case,
)
from advreg.training.recipes.task_losses import TaskOption, attack_objective, loss_of


@check_loss
def alp(weight: Weight = 0.5, label_smoothing: Smoothing = 0.0, task: TaskOption = "classes") -> Recipe:
    """Pair logits: ``(CE(f(x), y) + CE(f(x_adv), y)) / 2 + weight mean_k (f(x)_k - f(x_adv)_k)^2``.

    Known to mask gradients where the training attack is weak: evaluate it with a stronger protocol.

    Args:
        weight: weight of the mean squared difference of logits.
        label_smoothing: share of each label that is spread evenly over all classes.
        task: a `Task`, or text such as ``"pixels"``; its training loss takes the place of the cross-entropy.

    Returns:
        The recipe.

    Example:
        >>> import advreg, torch
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> alp(weight=0.5)(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: Kannan, Kurakin, Goodfellow, "Adversarial logit pairing", 2018, arXiv:1803.06373.
    """

    chosen, compute = as_task(task), loss_of(task, label_smoothing)
    objective = attack_objective(chosen)

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        z, z_adv = clean_and_adversarial_logits(
            model, x, worst_case(model, x, y, attack, threat, objective, task=chosen)
        )
        return (compute(z, y) + compute(z_adv, y)) / 2 + weight * pairing(z, z_adv)

    return loss

"""MART: weighs the divergence by how wrong the model is on each clean input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advreg.errors import DataError
from advreg.threat import ThreatModel
from advreg.training.recipes.base import (
    Attack,
    Forwards,
    Recipe,
    Weight,
    check_loss,
    clean_and_adversarial_logits,
    divergence,
    label_loss,
    worst_case,
)


@check_loss
def mart(beta: Weight = 5.0, forwards: Forwards = "one") -> Recipe:
    """Weight the misclassified examples: ``BCE(f(x_adv), y) + beta KL(p(x) || p(x_adv)) (1 - p(x)_y)``.

    ``BCE(f, y) = CE(f, y) - log(1.0001 - max_{k != y} p_k)``. PGD overestimates the robust accuracy
    of MART models: evaluate them with a stronger protocol.

    Args:
        beta: weight of the divergence.
        forwards: whether BatchNorm normalises clean and attacked inputs together, ``"one"``, or apart as in the paper's code.

    Returns:
        The recipe.

    Raises:
        DataError: on a batch of mixed labels, for which "misclassified" has no meaning.

    Example:
        >>> import advreg
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> mart(beta=5.0)(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: Wang et al., "Improving adversarial robustness requires revisiting misclassified examples", ICLR 2020.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        _require_hard_labels(y)
        z, z_adv = clean_and_adversarial_logits(model, x, worst_case(model, x, y, attack, threat), forwards)
        rival = z_adv.softmax(1).scatter(1, y[:, None], 0.0).amax(1)
        boosted = label_loss(z_adv, y, reduction="none") - torch.log(1.0001 - rival)
        doubt = 1 - z.softmax(1).gather(1, y[:, None])[:, 0]
        return (boosted + beta * divergence(z, z_adv) * doubt).mean()

    return loss


def _require_hard_labels(y: Tensor) -> None:
    if y.ndim != 1:
        raise DataError(f"mart was given labels {tuple(y.shape)}; give (B,), or use trades or madry on mixed labels")
    if int(y.min()) < 0:
        raise DataError(
            f"mart was given label {int(y.min())}, and weighs each example by the probability of its label; "
            "leave out what has none: x[y >= 0], y[y >= 0]"
        )

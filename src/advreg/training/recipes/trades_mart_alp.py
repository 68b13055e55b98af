"""Recipes that ask for the same answer at the clean and at the attacked input: TRADES, MART, logit pairing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from advreg.errors import DataError
from advreg.objectives import kl
from advreg.threat import ThreatModel
from advreg.training.recipes.base import (
    Attack,
    Recipe,
    Smoothing,
    Weight,
    check_loss,
    clean_and_adversarial_logits,
    divergence,
    label_loss,
    pairing,
    perturbed_reference,
    probabilities,
    worst_case,
)


@check_loss
def trades(
    beta: Weight = 6.0, label_smoothing: Smoothing = 0.0, reference: Literal["beside", "clean"] = "beside"
) -> Recipe:
    """Trade clean accuracy for constancy: ``CE(f(x), y) + beta KL(p(x) || p(x_adv))``.

    The attack maximises the same divergence and never sees a label. Its reference is the answer a hair beside ``x``, in
    place of the paper's start a hair beside ``x``: so it may start anywhere, the clean point included. The paper's pair is
    ``reference="clean"`` with `advreg.training.inner.gaussian_start`.

    Args:
        beta: weight of the divergence; 6 on CIFAR-10, 1 on MNIST in the paper.
        label_smoothing: share of each label that is spread evenly over all classes.
        reference: whose answer the attack leads away from: ``"clean"``, that at ``x``, is flat where an attack starts at ``x``.

    Example:
        >>> import advreg
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> trades(beta=6.0)(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: Zhang et al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        answer = probabilities(model, x) if reference == "clean" else perturbed_reference(model, x, threat)
        z, z_adv = clean_and_adversarial_logits(model, x, worst_case(model, x, answer, attack, threat, kl))
        return label_loss(z, y, label_smoothing) + beta * divergence(z, z_adv).mean()

    return loss


@check_loss
def mart(beta: Weight = 5.0) -> Recipe:
    """Attend to what is misclassified: ``BCE(f(x_adv), y) + beta KL(p(x) || p(x_adv)) (1 - p(x)_y)``.

    ``BCE(f, y) = CE(f, y) - log(1.0001 - max_{k != y} p_k)``. Robust accuracy under PGD tends to flatter it: measure it
    with a stronger protocol.

    Args:
        beta: weight of the divergence.

    Raises:
        DataError: on a batch of mixed labels, for which "misclassified" has no meaning.

    Example:
        >>> import advreg
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> mart(beta=5.0)(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: Wang et al., "Improving adversarial robustness requires revisiting misclassified examples", ICLR 2020.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        _refuse_unlabelled(y)
        z, z_adv = clean_and_adversarial_logits(model, x, worst_case(model, x, y, attack, threat))
        rival = z_adv.softmax(1).scatter(1, y[:, None], 0.0).amax(1)
        boosted = label_loss(z_adv, y, reduction="none") - torch.log(1.0001 - rival)
        doubt = 1 - z.softmax(1).gather(1, y[:, None])[:, 0]
        return (boosted + beta * divergence(z, z_adv) * doubt).mean()

    return loss


def _refuse_unlabelled(y: Tensor) -> None:
    if y.ndim != 1:
        raise DataError(f"mart was given labels {tuple(y.shape)}; give (B,), or use trades or madry on mixed labels")
    if int(y.min()) < 0:
        raise DataError(
            f"mart was given label {int(y.min())}, and weighs each example by the probability of its label; "
            "leave out what has none: x[y >= 0], y[y >= 0]"
        )


@check_loss
def alp(weight: Weight = 0.5, label_smoothing: Smoothing = 0.0) -> Recipe:
    """Pair logits: ``(CE(f(x), y) + CE(f(x_adv), y)) / 2 + weight mean_k (f(x)_k - f(x_adv)_k)^2``.

    Known to mask gradients where attacks in training are weak: measure it with a stronger protocol.

    Args:
        weight: weight of the mean squared difference of logits.
        label_smoothing: share of each label that is spread evenly over all classes.

    Example:
        >>> import advreg
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> alp(weight=0.5)(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: Kannan, Kurakin, Goodfellow, "Adversarial logit pairing", 2018.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        z, z_adv = clean_and_adversarial_logits(model, x, worst_case(model, x, y, attack, threat))
        clean, attacked = (label_loss(logits, y, label_smoothing) for logits in (z, z_adv))
        return (clean + attacked) / 2 + weight * pairing(z, z_adv)

    return loss

"""FGSM-PGI: keeps the logits at the start and at the end of a single step close."""

from __future__ import annotations

from torch import Tensor, nn

from advreg.errors import ConfigError
from advreg.threat import ThreatModel
from advreg.training.recipes.base import (
    Attack,
    Forwards,
    Recipe,
    Smoothing,
    Weight,
    check_loss,
    clean_and_adversarial_logits,
    label_loss,
    pairing,
    run_attack_in_eval,
)


@check_loss
def pgi(weight: Weight = 10.0, label_smoothing: Smoothing = 0.4, forwards: Forwards = "one") -> Recipe:
    """Regularise a single step by its starting point: ``CE(f(x_adv), y) + weight mean_k (f(x_adv)_k - f(x_start)_k)^2``.

    It needs an attack that returns ``x_start``: `advreg.training.inner.FgsmPgi`, that of the paper.

    Args:
        weight: weight of the mean squared difference of logits.
        label_smoothing: share of each label that is spread evenly over the OTHER classes: 0.4 leaves 0.6, as the authors do.
            Over all classes, as the other recipes count it, that is ``0.4 K / (K - 1)``.
        forwards: whether BatchNorm normalises start and end together, ``"one"``, or apart as in the paper's code.

    Returns:
        The recipe.

    Raises:
        ConfigError: when called with an attack that returns no ``x_start``.

    Example:
        >>> import torch
        >>> from advreg.training import inner
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> pgi()(model, x, y, inner.FgsmPgi(), ThreatModel("linf", eps=0.1)).backward()

    Reference: Jia et al., "Prior-guided adversarial initialization for fast adversarial training", ECCV 2022, arXiv:2207.08859.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        result = run_attack_in_eval(model, x, y, attack, threat)
        x_start = getattr(result, "x_start", None)
        if not isinstance(x_start, Tensor):
            raise ConfigError(
                "pgi was given an attack whose result has no x_start; give inner.FgsmPgi (attack 'stored'), or use madry"
            )
        z_start, z_adv = clean_and_adversarial_logits(model, x_start.detach(), result.x_adv.detach(), forwards)
        classes = z_adv.shape[1]
        smoothing = min(1.0, label_smoothing * classes / max(1, classes - 1))
        return label_loss(z_adv, y, smoothing) + weight * pairing(z_start, z_adv)

    return loss

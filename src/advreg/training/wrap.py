"""Adversarial regularisation for a loop that is there already: wrap the model, ask the wrapper for the loss."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from advreg.attacks import craft
from advreg.attacks.model import query_model
from advreg.threat import ThreatModel
from advreg.training.recipes import Attack, Recipe, multiplier

_FGSM = partial(craft, steps=1, start="zero")


class AdversarialRegularization(nn.Module):
    """A model that answers with logits to ``(x)`` and with its training loss to ``(x, y)``.

    Wrap it once more for data-parallel training: the attack inside asks the plain model.

    Args:
        model: the network; it is shared, not copied: train the wrapper, save ``.model``.
        threat: what the adversary may do.
        recipe: which loss; by default `multiplier`, ``CE(f(x), y) + 0.2 CE(f(x_adv), y)``.
        attack: how to look for the worst case; by default one step from the clean input.

    Example:
        >>> import torch
        >>> model = Regularized(nn.Linear(4, 3), ThreatModel("linf", eps=0.1))
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> model(x, y).backward()
        >>> model(x).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, model: nn.Module, threat: ThreatModel, *, recipe: Recipe | None = None, attack: Attack = _FGSM
    ) -> None:
        super().__init__()
        self.model = model
        self.threat = threat
        self.recipe = recipe or multiplier()
        self.attack = attack

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return logits ``(B, K)``, or, where labels are given, the recipe's loss, a scalar."""
        if y is None:
            return query_model(self.model, x)
        return self.recipe(self.model, x, y, self.attack, self.threat)

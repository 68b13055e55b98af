"""The loss of a batch as a module, so that DistributedDataParallel can wrap it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from advreg.threat import ThreatModel
from advreg.training.recipes import Attack, Recipe


class RecipeLoss(nn.Module):
    """A recipe bound to its network: data-parallel training wraps this module; its attack evaluates the plain network.

    Args:
        model: the network that is trained.
        recipe: the loss.

    Example:
        >>> import torch
        >>> from advreg.attacks import craft
        >>> from advreg.training.recipes import madry
        >>> compute_loss, x, y = RecipeLoss(nn.Linear(4, 3), madry()), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> loss, logits = compute_loss(x, y, craft, ThreatModel("linf", eps=0.1))
        >>> logits.shape
        torch.Size([2, 3])
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe

    def forward(self, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> tuple[Tensor, Tensor]:
        """Return the loss, a scalar, and the logits ``(B, K)`` of the training examples.

        Args:
            x: inputs ``(B, ...)``.
            y: labels ``(B,)`` or probabilities ``(B, K)``.
            attack: the inner attack.
            threat: norm, eps and box.

        Returns:
            Loss and logits.
        """
        with _collect_logits(self.model) as logits:
            loss = self.recipe(self.model, x, y, attack, threat)
        return loss, logits[-1][-len(y) :]


@contextmanager
def _collect_logits(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the logits of forwards in train mode: those of the recipe, not of the attack."""
    collected: list[Tensor] = []

    def collect(module: nn.Module, _: object, logits: Tensor) -> None:
        if module.training:
            collected.append(logits.detach())

    handle = model.register_forward_hook(collect)
    try:
        yield collected
    finally:
        handle.remove()

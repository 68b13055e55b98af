"""NuAT: one step, and a nuclear norm that keeps the outputs of clean and attacked inputs together."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from advreg import example_rng
from advreg.attacks.inputs import read_training
from advreg.attacks.model import query_model, widen
from advreg.module_modes import eval_mode
from advreg.threat import ThreatModel
from advreg.training.recipes.base import (
    Attack,
    Recipe,
    Smoothing,
    Weight,
    check_loss,
    clean_and_adversarial_logits,
    draw_seed,
    label_loss,
)


@check_loss
def nuat(weight: Weight = 4.0, ramp: Annotated[int, Field(ge=1)] = 1, label_smoothing: Smoothing = 0.0) -> Recipe:
    """Minimise ``CE(f(x), y) + w / B ||f(x) - f(x_adv)||_*``, the nuclear norm of the batch's matrix ``(B, K)``.

    ``x_adv`` is one step of eps from ``x`` plus or minus eps / 2 at random. It maximises the same sum at every second batch,
    and the cross-entropy at the others, so that the step does not overfit to one of them.

    Args:
        weight: ``w`` in the end; 4 on CIFAR-10 in the paper.
        ramp: epochs over which ``w`` grows to it in equal steps.
        label_smoothing: share of each label that is spread evenly over all classes.

    Returns:
        The recipe; its attack is its own, the one of the call may be None.

    Example:
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> nuat()(model, x, y, None, ThreatModel("linf", eps=0.1)).backward()

    Reference: Sriramanan et al., "Towards efficient and effective adversarial training", NeurIPS 2021.
    """
    return Nuclear(weight, ramp, label_smoothing)


def nuclear_norm(difference: Tensor) -> Tensor:
    """Return the sum of the singular values of ``(B, K)``, divided by B.

    Args:
        difference: logits of clean inputs less those of attacked ones.

    Example:
        >>> nuclear_norm(torch.diag(torch.tensor([3.0, 4.0]))).item()
        3.5
    """
    wide = difference if difference.dtype == torch.float64 else difference.float()
    norm: Tensor = torch.linalg.matrix_norm(wide, "nuc")
    return norm / len(wide)


class Nuclear:
    """The recipe that `nuat` makes; its state is the number of batches and of epochs so far."""

    def __init__(self, weight: float, ramp: int, label_smoothing: float) -> None:
        self.weight, self.ramp = weight, ramp
        self.label_smoothing = label_smoothing
        self.batch = 0
        self.epoch = ramp

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        """Return the loss.

        Args:
            model: the network.
            x: inputs ``(B, ...)`` inside the box.
            y: labels ``(B,)`` or probabilities ``(B, K)``.
            attack: not used.
            threat: norm, eps and box.

        Returns:
            A scalar.

        Raises:
            DataError: a batch that does not fit together, or inputs outside the threat's box.
        """
        x, y = read_training(x, y, threat)
        x = widen(x)
        weight = self.weight * min(1.0, self.epoch / self.ramp)
        with eval_mode(model):
            x_adv = self._step(model, x, y, threat, weight if self.batch % 2 == 0 else 0.0)
        self.batch += 1
        z, z_adv = clean_and_adversarial_logits(model, x, x_adv)
        return label_loss(z, y, self.label_smoothing) + weight * nuclear_norm(z - z_adv)

    def start_epoch(self, epoch: int) -> None:
        """Set the epoch, 1 for the first, which sets the weight."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, Tensor]:
        """Return the number of batches so far."""
        return {"batch": torch.tensor(self.batch)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the number of batches that `state_dict` returned."""
        self.batch = int(state["batch"])

    def _step(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, weight: float) -> Tensor:
        places = torch.arange(len(x), device=x.device)
        signs = (example_rng.uniform(places, tuple(x.shape[1:]), draw_seed()) < 0.5).to(x.dtype) * 2 - 1
        start = threat.project(x + threat.radii(x) / 2 * signs, x).requires_grad_()
        z = query_model(model, start)
        loss = label_loss(z, y, reduction="sum")
        if weight:
            loss = loss + weight * len(x) * nuclear_norm(z - query_model(model, x).detach())
        (grad,) = torch.autograd.grad(loss, start)
        return threat.project(start.detach() + threat.radii(x) * threat.steepest(grad, start.detach(), x), x).detach()

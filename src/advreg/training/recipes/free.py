"""Free adversarial training: one backward updates both the weights and the perturbation."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from advreg.attacks.input_limits import require_alike_features
from advreg.attacks.inputs import read_training
from advreg.attacks.model import query_model, widen
from advreg.tasks import as_task
from advreg.threat import ThreatModel
from advreg.training.per_example_state import Saved
from advreg.training.recipes.base import Attack, Recipe, Smoothing, check_loss
from advreg.training.recipes.task_losses import TaskOption, loss_of

BoxGradient = Literal["full", "masked"]
"""Whether values that the perturbation pushed out of the box keep their gradient, or have none, as behind a clamp."""


@check_loss
def free(
    replays: Annotated[int, Field(ge=1)] = 8,
    label_smoothing: Smoothing = 0.0,
    task: TaskOption = "classes",
    box_gradient: BoxGradient = "full",
) -> Recipe:
    """Minimise the cross-entropy at a perturbation that each ``backward`` moves: no attack, one forward and one backward.

    ``delta <- ball(delta + eps steepest(grad CE(f(box(x + delta)), y)))``. The perturbation of each position in the batch
    carries over to the next batch. The loop takes `replays_of` steps on every batch, so divide the epochs by that number.

    Args:
        replays: steps on each batch, ``m`` in the paper: 8 on CIFAR-10, 4 on ImageNet.
        label_smoothing: share of each label that is spread evenly over all classes.
        task: a `Task`, or text such as ``"pixels"``; its training loss takes the place of the cross-entropy.
        box_gradient: ``"masked"`` leaves the perturbation where it pushed a value out of the box, as in the paper's code, which
            differentiates through the clamp; ``"full"`` moves it there too.

    Returns:
        The recipe; its ``state_dict`` holds the perturbation.

    Example:
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> recipe = free(replays=2)
        >>> for _ in range(replays_of(recipe)):
        ...     recipe(model, x, y, None, ThreatModel("linf", eps=0.1)).backward()  # and a step of the optimizer
        >>> round(recipe.state_dict()["delta"].abs().max().item(), 5)
        0.1

    Reference: Shafahi et al., "Adversarial training for free!", NeurIPS 2019, arXiv:1904.12843.
    """
    return Replayed(replays, label_smoothing, task, box_gradient)


class Replayed:
    """The recipe that `free` makes; its state is one perturbation for each position in the batch."""

    def __init__(
        self,
        replays: int,
        label_smoothing: float,
        task: TaskOption = "classes",
        box_gradient: BoxGradient = "full",
    ) -> None:
        self.replays, self.task = replays, as_task(task)
        self.compute = loss_of(task, label_smoothing)
        self.masked = box_gradient == "masked"
        self.delta: Tensor | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        """Return the loss; its ``backward`` also moves the perturbation.

        Args:
            model: the network.
            x: inputs ``(B, ...)`` inside the box.
            y: labels ``(B,)`` or probabilities ``(B, K)``.
            attack: not used; the perturbation takes its place.
            threat: norm, eps and box.

        Returns:
            A scalar.

        Raises:
            DataError: a batch that does not fit together, or inputs outside the threat's box.
        """
        x, y = read_training(x, y, threat, self.task)
        x = widen(x)
        delta = self._places(x)[: len(x)]
        low, high = threat.box
        pushed = x + delta
        point = threat.project(pushed, x).detach().requires_grad_()

        def climb(grad: Tensor) -> None:
            seen = grad * ((pushed >= low) & (pushed <= high)) if self.masked else grad
            delta.copy_(_moved(delta, seen, threat))

        point.register_hook(climb)  # type: ignore[no-untyped-call]
        return self.compute(query_model(model, point), y)

    def state_dict(self) -> Saved:
        """Return the perturbation; nothing before the first batch."""
        return {} if self.delta is None else {"delta": self.delta}

    def load_state_dict(self, state: Saved) -> None:
        """Restore a perturbation that `state_dict` returned."""
        self.delta = state["delta"].clone() if state else None

    def _places(self, x: Tensor) -> Tensor:
        """Return the perturbation of every place, with room for this batch and on its device."""
        before = x.new_zeros(0, *x.shape[1:]) if self.delta is None else self.delta.to(x.device)
        self.delta = torch.cat([before, x.new_zeros(max(0, len(x) - len(before)), *x.shape[1:])])
        return self.delta


def replays_of(recipe: Recipe) -> int:
    """Return how many steps the recipe takes on every batch: 1 for every recipe except `free`.

    Args:
        recipe: any recipe.

    Returns:
        Steps on each batch.

    Example:
        >>> replays_of(free(replays=4)), replays_of(lambda model, x, y, attack, threat: x.sum())
        (4, 1)
    """
    return int(getattr(recipe, "replays", 1))


def _moved(delta: Tensor, grad: Tensor, threat: ThreatModel) -> Tensor:
    """Return the perturbation a step further, kept in the ball; the box of the next image in its place is not known yet."""
    require_alike_features("free", threat)
    low, high = threat.box
    ball, origin = replace(threat, box=(low - high, high - low)), torch.zeros_like(delta)
    return ball.project(delta + threat.radii(delta) * threat.steepest(grad.nan_to_num()), origin)

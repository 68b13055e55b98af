"""GradAlign: aligns the input gradients over the ball, so that one step remains a strong attack."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.attacks.inputs import into_box_once, read_pair
from advreg.attacks.model import query_model, widen
from advreg.errors import ModelError
from advreg.module_modes import eval_mode
from advreg.threat import ThreatModel, broadcast_per_example
from advreg.training.recipes.base import Attack, Recipe, Smoothing, Weight, check_loss, draw_seed, label_loss
from advreg.training.recipes.cross_entropy import madry

Method = Literal["finite", "double"]
Length = Annotated[float, Field(gt=0)]


@check_loss
def gradalign(
    weight: Weight = 0.2, method: Method = "finite", step: Length = 0.1, label_smoothing: Smoothing = 0.0
) -> Recipe:
    """Align input gradients: ``CE(f(x_adv), y) + weight (1 - cos(g(x), g(x + eta)))``, ``g`` the input gradient.

    ``eta`` is a random point of the ball, another one for each example. Made for one step from the clean point, FGSM, where
    training on it alone would overfit to the step.

    Args:
        weight: weight of the misalignment; 0.2 at linf 8/255 on CIFAR-10.
        method: ``"finite"``, the derivative by a central difference, or ``"double"``, by a backward through a backward.
        step: l2 length of the difference, in the units of the input.
        label_smoothing: share of each label that is spread evenly over all classes.

    Returns:
        The recipe: `madry` with the additional term.

    Example:
        >>> from functools import partial
        >>> import advreg
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> fgsm = partial(advreg.attacks.craft, steps=1, start="zero")
        >>> gradalign()(model, x, y, fgsm, ThreatModel("linf", eps=0.1)).backward()

    Reference: Andriushchenko and Flammarion, "Understanding and improving fast adversarial training", NeurIPS 2020,
    arXiv:2007.02617.
    """
    return aligned(madry(label_smoothing), weight, method=method, step=step)


def aligned(recipe: Recipe, weight: float = 0.2, *, method: Method = "finite", step: float = 0.1) -> Recipe:
    """Return a recipe that adds ``weight`` times the misalignment of gradients to another recipe's loss.

    Args:
        recipe: any recipe.
        weight: weight of the misalignment.
        method: ``"finite"``, the derivative by a central difference, or ``"double"``, by a backward through a backward.
        step: l2 length of the difference, in the units of the input.

    Returns:
        The recipe with the additional term.

    Example:
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> import advreg
        >>> recipe = aligned(advreg.recipes.trades(), 0.1)
        >>> recipe(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        x, y = read_pair(x, y)
        return recipe(model, x, y, attack, threat) + weight * misalignment(model, x, y, threat, method, step)

    return loss


def misalignment(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, method: Method = "finite", step: float = 0.1
) -> Tensor:
    """Return the mean of ``1 - cos(g(x), g(x + eta))``, a scalar that can be differentiated by the weights.

    Only the gradient at ``x + eta`` is followed back, as the paper found to suffice. Gradients are those of eval mode, since
    two draws of dropout would never align, and of full precision, since their differences are small.

    Args:
        model: the network.
        x: inputs ``(B, ...)`` inside the box.
        y: labels ``(B,)`` or probabilities ``(B, K)``.
        threat: norm, eps and box; ``eta`` is drawn from its ball.
        method: ``"finite"``, the derivative by a central difference, or ``"double"``, by a backward through a backward.
        step: l2 length of the difference, in the units of the input.

    Returns:
        A scalar in [0, 2]; 0 where the gradients are parallel.

    Raises:
        DataError: inputs outside the threat's box.
        ModelError: ``"double"`` on a compiled model, through which torch cannot differentiate twice.

    Example:
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> bool(misalignment(model, x, y, ThreatModel("linf", eps=1e-6)) < 1e-3)
        True

    Reference: Andriushchenko and Flammarion, "Understanding and improving fast adversarial training", NeurIPS 2020,
    arXiv:2007.02617.
    """
    if method == "double" and hasattr(model, "_orig_mod"):
        raise ModelError(
            "gradalign cannot differentiate a compiled model twice; set method = finite, or do not compile"
        )
    x = widen(into_box_once(x, threat.box))
    places = torch.arange(len(x), device=x.device)  # a recipe knows no ids
    beside = threat.random_start(x, places, draw_seed())
    with eval_mode(model), torch.autocast(x.device.type, enabled=False):
        here = _gradient(model, x, y)
        there = _gradient(model, beside, y, follow=method == "double")
        if method == "double":
            return _angle(here, there).mean()
        value, slope = _slope(here, there)
        return value.detach() + _rise(model, beside, y, slope, step)


@torch.enable_grad()
def _slope(here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of ``1 - cos`` and its gradient by ``there``."""
    leaf = there.detach().requires_grad_()
    value = _angle(here, leaf).mean()
    return value, torch.autograd.grad(value, leaf)[0]


@torch.enable_grad()  # a validation loss runs without gradients, but this term is computed from them
def _gradient(model: nn.Module, x: Tensor, y: Tensor, *, follow: bool = False) -> Tensor:
    point = x.detach().clone().requires_grad_()
    loss = label_loss(query_model(model, point), y, reduction="sum")
    grad: Tensor = torch.autograd.grad(loss, point, create_graph=follow)[0]
    return grad


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Return ``1 - cos`` for each example, 0 where a gradient vanishes; scaled first, for gradients may be tiny."""
    a, b = (g.flatten(1) / g.detach().flatten(1).abs().amax(1, keepdim=True).clamp_min(1e-30) for g in (a, b))
    alive = (a.detach() != 0).any(1) & (b.detach() != 0).any(1)
    return torch.where(alive, 1 - F.cosine_similarity(a, b), 0.0)


def _rise(model: nn.Module, x: Tensor, y: Tensor, slope: Tensor, step: float) -> Tensor:
    """Return zero with the weight derivative of ``<slope, g(x)>``: ``|slope|`` times a central difference."""
    size = slope.flatten(1).norm(dim=1)
    way = step * slope / broadcast_per_example(size.clamp_min(1e-30), x)
    loss = label_loss(query_model(model, torch.cat([x + way, x - way])), torch.cat([y, y]), reduction="none")
    rise: Tensor = (size * (loss[: len(x)] - loss[len(x) :]) / (2 * step)).sum()
    return rise - rise.detach()

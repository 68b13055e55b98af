"""One optimizer step: the gradients come from a function, clipping and the update are here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn
from torch.optim import Optimizer

T = TypeVar("T")


def take_optimizer_step(optimizer: Optimizer, add_gradients: Callable[[], T], clip: float = 0.0) -> T:
    """Clear the gradients, add new ones, clip their norm, and update the weights.

    Args:
        optimizer: the optimizer of the weights.
        add_gradients: adds to the gradients by any number of backwards; its result is returned.
        clip: largest l2 norm of all gradients together; 0 for no clipping.

    Returns:
        The result of ``add_gradients``.

    Example:
        >>> import torch
        >>> weight = nn.Parameter(torch.tensor([3.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=1.0)
        >>> take_optimizer_step(optimizer, lambda: weight.square().sum().backward(), clip=1.0)
        >>> round(weight.item(), 3)
        2.0
    """
    optimizer.zero_grad(set_to_none=True)
    result = add_gradients()
    if clip:
        nn.utils.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], clip)
    optimizer.step()
    return result


def trainable_parameters(model: nn.Module) -> nn.ParameterList:
    """Return the parameters that require a gradient, in the order of the model.

    Args:
        model: a network.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> _ = model.bias.requires_grad_(False)
        >>> len(trainable_parameters(model))
        1
    """
    return nn.ParameterList(weight for weight in model.parameters() if weight.requires_grad)

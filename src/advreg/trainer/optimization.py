"""One optimizer step: the gradients come from a function, clipping and the update are here."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any, Literal, TypeVar

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


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    decay: Literal["all", "matrices"] = "all",
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Return the optimizer's groups: a learning rate for each block, and no decay where none is wanted.

    Block ``b`` of ``n`` learns with ``lr layer_decay^(n - 1 - b)``. A block is what comes before and with the first number in a
    name, ``blocks.3`` or ``layer4.0``, else the module. The last block comes first, so that the first group has rate ``lr``.

    Args:
        model: a network.
        lr: learning rate of the last block.
        weight_decay: weight decay.
        decay: ``"matrices"`` leaves out tensors of fewer than two dimensions: biases and the weights of norms.
        layer_decay: factor from one block to the one before it.

    Returns:
        Groups for an optimizer of `torch.optim`.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        >>> [(g["lr"], g["weight_decay"], len(g["params"])) for g in parameter_groups(model, 0.1, 5e-4, "matrices", 0.5)]
        [(0.1, 0.0005, 1), (0.1, 0.0, 1), (0.05, 0.0, 2), (0.025, 0.0005, 1), (0.025, 0.0, 1)]

    Reference: Clark et al., "ELECTRA", ICLR 2020; Bao, Dong, Wei, "BEiT", ICLR 2022, arXiv:2106.08254.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    blocks = list(dict.fromkeys(_block(name) for name, _ in named))
    groups = []
    for distance, block in enumerate(reversed(blocks)):
        inside = [weight for name, weight in named if _block(name) == block]
        by_decay = groupby(sorted(inside, key=lambda w: w.ndim < 2), key=lambda w: decay == "matrices" and w.ndim < 2)
        groups += [
            {"params": list(weights), "lr": lr * layer_decay**distance, "weight_decay": 0.0 if exempt else weight_decay}
            for exempt, weights in by_decay
        ]
    return groups


def _block(name: str) -> str:
    """Return the part of a parameter's name up to its first number, or its module."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1] if numbers else parts[:-1] or parts)

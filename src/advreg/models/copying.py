"""Copies of modules, also of those that torch's own copy rejects."""

from __future__ import annotations

import copy

from torch import Tensor, nn


def copy_model(model: nn.Module) -> nn.Module:
    """Return a copy of a module with weights of its own.

    Old weight and spectral norm keep a weight that is part of a graph, which ``copy.deepcopy`` rejects; its values are copied.

    Args:
        model: any module.

    Returns:
        The copy, in the same mode and on the same device.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> model.twice = 2 * model.weight
        >>> bool((copy_model(model).twice == model.twice).all())
        True
    """
    attributes = [value for module in model.modules() for value in vars(module).values()]
    in_graphs = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in in_graphs})

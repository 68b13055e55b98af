"""Linear networks with decision boundaries through the centre of the box."""

from __future__ import annotations

from torch import nn


def balanced(model: nn.Sequential) -> nn.Sequential:
    """Shift the scores of a linear network so that they are all zero at the grey input."""
    layer = model[1]
    layer.bias.data = -0.5 * layer.weight.data.sum(1)
    return model

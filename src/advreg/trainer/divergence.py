"""The divergence guard: losses and weights that are not finite must never reach a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from advreg.errors import TrainingError


def nonfinite_loss(loss: float) -> str | None:
    """Return a description of a loss that is not finite, None of one that is.

    Args:
        loss: mean or sum over some examples.

    Example:
        >>> nonfinite_loss(float("inf"))
        'the loss is inf'
    """
    return None if math.isfinite(loss) else f"the loss is {loss}"


def nonfinite_tensors(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the names of the tensors that hold NaN or infinity.

    Args:
        tensors: name -> tensor, such as a state dict.

    Example:
        >>> list(nonfinite_tensors({"bias": torch.zeros(2), "weight": torch.tensor([float("nan")])}))
        ['weight']
    """
    return (name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all()))


def overflow(tensors: Mapping[str, Tensor], expected: Collection[str] = ()) -> str | None:
    """Return a description of the first tensor that holds NaN or infinity, None where all are finite.

    Args:
        tensors: name -> tensor.
        expected: names of tensors that may hold infinity, such as the mask of an attention.
    """
    name = next((name for name in nonfinite_tensors(tensors) if name not in expected), None)
    return None if name is None else f"{name} holds NaN or infinity"


def divergence_error(problem: str, remedy: str, kept: str) -> TrainingError:
    """Return the error of a training that diverged.

    Args:
        problem: the loss or weight that is not finite, and when.
        remedy: options to change.
        kept: what the run folder still holds.

    Example:
        >>> print(divergence_error("the loss is nan after step 5", "lower train.lr", "the last complete epoch"))
        training diverged: the loss is nan after step 5; lower train.lr, then train in another folder (the last complete epoch \
is kept in this one)
    """
    return TrainingError(
        f"training diverged: {problem}; {remedy}, then train in another folder ({kept} is kept in this one)"
    )

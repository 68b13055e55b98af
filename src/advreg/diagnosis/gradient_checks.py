"""Measurements of a model: the spread of repeated outputs, their average, and the gradient at the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advreg.attacks.model import query_model
from advreg.attacks.search import QuerySpec, query
from advreg.evaluation.batch_sizing import is_out_of_memory
from advreg.objectives import cross_entropy
from advreg.plugins import first_line

_DRAWS = 15  # outputs of a random model that are averaged


class Averaged(nn.Module):
    """A random model with its probabilities averaged over several draws.

    Args:
        model: the random model.
        draws: number of outputs that are averaged.
    """

    def __init__(self, model: nn.Module, draws: int = _DRAWS) -> None:
        super().__init__()
        object.__setattr__(self, "net", model)  # not a submodule: modes and weights remain the caller's
        self.draws = draws
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithm of the mean probability ``(B, K)``."""
        probabilities = [query_model(self.net, x).softmax(1) for _ in range(self.draws)]  # type: ignore[arg-type]
        return torch.stack(probabilities).mean(0).clamp_min(1e-30).log()


def relative_spread(logits: Tensor) -> float:
    """Return how far repeated logits ``(R, B, K)`` differ, relative to the largest.

    Returns:
        A share.

    Example:
        >>> import torch
        >>> relative_spread(torch.tensor([[[2.0, 0.0]], [[1.0, 0.0]]]))
        0.5
    """
    size = float(logits.abs().max().clamp_min(1e-30))
    return float((logits.amax(0) - logits.amin(0)).max()) / size


def describe_or_reraise(cause: Exception) -> str:
    """Return a model's exception as one line; raise it again if memory ran out, which is no finding about the model.

    Args:
        cause: the exception that the model raised.

    Returns:
        One line.

    Raises:
        Exception: the same exception, if memory ran out.
    """
    context = cause.__context__
    if is_out_of_memory(cause) or (isinstance(context, Exception) and is_out_of_memory(context)):
        raise cause
    return first_line(cause)


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor | None, str]:
    """Return the gradient of the summed cross-entropy ``(B, ...)``, or None and the reason."""
    try:
        return query(QuerySpec(model, cross_entropy), x, y)[2], ""
    except Exception as cause:  # a model may raise anything in its backward; the check reports it
        return None, describe_or_reraise(cause)

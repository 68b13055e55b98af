"""Looks at a model: how far repeated answers differ, whether they are probabilities, whether a gradient can be had."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advreg.attacks.model import query_model
from advreg.attacks.search import QuerySpec, query
from advreg.evaluation.batch_sizing import is_out_of_memory
from advreg.objectives import cross_entropy
from advreg.plugins import first_line

_OPINIONS = 15  # answers of a random model that make up its opinion


class Averaged(nn.Module):
    """A random model's opinion: its probabilities averaged over some answers, as logits."""

    def __init__(self, model: nn.Module, draws: int = _OPINIONS) -> None:
        super().__init__()
        object.__setattr__(self, "net", model)  # not a submodule: modes and weights stay the caller's
        self.draws = draws
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithm of the mean probability ``(B, K)``."""
        answers = torch.stack([query_model(self.net, x).softmax(1) for _ in range(self.draws)])  # type: ignore[arg-type]
        return answers.mean(0).clamp_min(1e-30).log()


def gradient_spread(answers: Tensor) -> float:
    """Return how far repeated logits ``(R, B, K)`` differ, relative to the largest.

    Returns:
        A share.

    Example:
        >>> import torch
        >>> gradient_spread(torch.tensor([[[2.0, 0.0]], [[1.0, 0.0]]]))
        0.5
    """
    size = float(answers.abs().max().clamp_min(1e-30))
    return float((answers.amax(0) - answers.amin(0)).max()) / size


def describe_or_reraise(cause: Exception) -> str:
    """Return what a model raised as one line, but raise it again where memory ran out: that says nothing about the model.

    Args:
        cause: the exception that the model raised.

    Returns:
        One line.

    Raises:
        Exception: the same exception, if memory ran out.
    """
    behind = cause.__context__
    if is_out_of_memory(cause) or (isinstance(behind, Exception) and is_out_of_memory(behind)):
        raise cause
    return first_line(cause)


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor | None, str]:
    """Return the gradient of the summed cross-entropy ``(B, ...)``, or None and why there is none."""
    try:
        return query(QuerySpec(model, cross_entropy), x, y)[2], ""
    except Exception as cause:  # a model may raise anything in its backward: that is a finding
        return None, describe_or_reraise(cause)

"""Going down a loss, one example apart from the other, and keeping the best point that was seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]
"""From points ``(B, ...)`` to losses ``(B,)``, each of its own point only."""
Move = Callable[[Tensor, Tensor], Tensor]
"""From points and gradients to the next points."""


def iterates(loss: Loss, start: Tensor, move: Move, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``steps + 1`` pairs of points and losses: ``point <- move(point, grad loss(point))``.

    It costs ``steps + 1`` forwards and ``steps`` backwards for each example.

    Example:
        >>> down = iterates(lambda x: x**2, torch.tensor([3.0]), lambda x, g: x - 0.5 * g, 1)
        >>> [(float(x), float(f)) for x, f in down]
        [(3.0, 9.0), (0.0, 0.0)]
    """
    point = start.detach()
    for _ in range(steps):
        with torch.enable_grad():
            value = loss(point.requires_grad_())
            (grad,) = torch.autograd.grad(value.sum(), point)
        point = point.detach()
        yield point, value.detach()
        point = move(point, grad)
    with torch.no_grad():
        yield point, loss(point)


def best(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return each example's point of lowest loss, and that loss; a loss that is no number is never the lowest.

    Example:
        >>> first, second = torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0], [2.0]])
        >>> best([(first, torch.tensor([0.1, 0.9])), (second, torch.tensor([0.2, 0.3]))])[0].flatten().tolist()
        [1.0, 2.0]
    """
    following = iter(pairs)
    point, low = next(following)
    for other, value in following:
        better = value < torch.where(low.isnan(), torch.inf, low)
        point = torch.where(better.view(-1, *[1] * (point.dim() - 1)), other, point)
        low = torch.where(better, value, low)
    return point, low


def unit(grad: Tensor) -> Tensor:
    """Return each token's gradient at length 1: the steepest direction of an l2 ball; a zero stays zero."""
    norm: Tensor = grad.norm(dim=-1, keepdim=True)
    return grad / norm.clamp_min(1e-30)


def steepest(step: Tensor | float) -> Move:
    """Step against the gradient, ``step`` long for each token."""

    def move(point: Tensor, grad: Tensor) -> Tensor:
        return point - step * unit(grad)

    return move


def signed(step: Tensor | float) -> Move:
    """Step against the sign of the gradient, ``step / sqrt(D)`` in each coordinate: ``step`` long for each token."""

    def move(point: Tensor, grad: Tensor) -> Tensor:
        return point - step / math.sqrt(point.shape[-1]) * grad.sign()

    return move


def within(move: Move, radius: Tensor | float) -> Move:
    """Follow each move by the projection of every token onto the l2 ball of this radius."""

    def projected(point: Tensor, grad: Tensor) -> Tensor:
        return project(move(point, grad), radius)

    return projected


def project(delta: Tensor, radius: Tensor | float) -> Tensor:
    """Return the nearest points whose tokens, rows of the last dimension, are at most ``radius`` long in l2.

    Example:
        >>> project(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 1.0).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.30000001192092896, 0.4000000059604645]]
    """
    norm = delta.norm(dim=-1, keepdim=True)
    return torch.where(norm > radius, delta * (radius / norm.clamp_min(1e-30)), delta)

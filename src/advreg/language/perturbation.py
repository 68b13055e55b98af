"""Perturbations of embeddings and hidden states: norms, projections, steepest steps, random starts and descent.

A perturbation is ``(B, T, D)``: one vector of ``D`` numbers for each of ``T`` tokens of ``B`` examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from advreg import example_rng

Norm = Literal["token", "example", "linf"]
"""``"token"``: l2 norm of each token; ``"example"``: l2 norm of all tokens together; ``"linf"``: the largest coordinate."""
Loss = Callable[[Tensor], Tensor]
"""From points ``(B, ...)`` to losses ``(B,)``; each loss depends on its own point only."""
Move = Callable[[Tensor, Tensor], Tensor]
"""From points and gradients to the next points."""

_TINY = 1e-30


def project(delta: Tensor, radius: Tensor | float, norm: Norm = "token") -> Tensor:
    """Return the nearest perturbations inside a ball.

    Args:
        delta: perturbations ``(B, T, D)``.
        radius: radius of the ball, in units of the embeddings; a tensor must broadcast against ``delta``.
        norm: norm of the ball.

    Returns:
        ``(B, T, D)``; perturbations inside the ball are unchanged.

    Example:
        >>> project(torch.tensor([[[3.0, 4.0], [0.3, 0.4]]]), 1.0).tolist()
        [[[0.6000000238418579, 0.800000011920929], [0.30000001192092896, 0.4000000059604645]]]
    """
    if norm == "linf":
        return delta.clamp(-radius, radius)  # type: ignore[arg-type]
    size = _size(delta, norm)
    return torch.where(size > radius, delta * (radius / size.clamp_min(_TINY)), delta)


def steepest_direction(grad: Tensor, norm: Norm = "token") -> Tensor:
    """Return the direction of norm 1 in which a loss rises fastest; zero if the gradient is zero.

    Args:
        grad: gradient of the loss ``(B, T, D)``.
        norm: norm in which the direction has length 1.

    Returns:
        ``(B, T, D)``.

    Example:
        >>> steepest_direction(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])).tolist()
        [[[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]]
    """
    return grad.sign() if norm == "linf" else grad / _size(grad, norm).clamp_min(_TINY)


def _size(delta: Tensor, norm: Norm) -> Tensor:
    """Return the l2 norm of each token or example, with the reduced dimensions kept."""
    dims = (-1,) if norm == "token" else (-2, -1)
    size: Tensor = torch.linalg.vector_norm(delta, dim=dims, keepdim=True)
    return size


def random_start(ids: Tensor, shape: tuple[int, ...], scale: float, seed: int) -> Tensor:
    """Return uniform noise in ``[-scale, scale]`` that depends on the seed and each example's id only.

    Args:
        ids: example ids ``(B,)``.
        shape: shape of one example's noise.
        scale: largest absolute coordinate.
        seed: seed of the draws; the global generator is not used.

    Returns:
        ``(B, *shape)``.

    Example:
        >>> noise = random_start(torch.tensor([4, 7]), (2, 3), 0.1, seed=0)
        >>> torch.equal(noise[1:], random_start(torch.tensor([7]), (2, 3), 0.1, seed=0))
        True
    """
    return scale * (2 * example_rng.uniform(ids, shape, seed) - 1)


@contextmanager
def replayed_rng() -> Iterator[Callable[[], None]]:
    """Yield a function that rewinds torch's generators to their state on entry, so that dropout masks repeat.

    The generators are not rewound on exit.

    Example:
        >>> with replayed_rng() as rewind:
        ...     first = torch.rand(2)
        ...     rewind()
        ...     bool((torch.rand(2) == first).all())
        True
    """
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def rewind() -> None:
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)

    yield rewind


def iterates(loss: Loss, start: Tensor, move: Move, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``steps + 1`` pairs of points and losses: ``point <- move(point, grad loss(point))``.

    It costs ``steps + 1`` forwards and ``steps`` backwards for each example.

    Args:
        loss: points ``(B, ...)`` -> losses ``(B,)``.
        start: starting points ``(B, ...)``.
        move: points and gradients -> next points.
        steps: number of moves.

    Returns:
        An iterator of points ``(B, ...)`` and losses ``(B,)``.

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


def best_iterate(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return each example's point of lowest loss, and that loss; NaN is never the lowest.

    Args:
        pairs: points ``(B, ...)`` with their losses ``(B,)``, at least one pair.

    Returns:
        Points ``(B, ...)`` and losses ``(B,)``.

    Example:
        >>> first, second = torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0], [2.0]])
        >>> best_iterate([(first, torch.tensor([0.1, 0.9])), (second, torch.tensor([0.2, 0.3]))])[0].flatten().tolist()
        [1.0, 2.0]
    """
    remaining = iter(pairs)
    point, low = next(remaining)
    for other, value in remaining:
        better = value < torch.where(low.isnan(), torch.inf, low)
        point = torch.where(better.view(-1, *[1] * (point.dim() - 1)), other, point)
        low = torch.where(better, value, low)
    return point, low


def steepest_descent(step: Tensor | float) -> Move:
    """Return a move against the gradient by ``step`` in l2 for each token.

    Args:
        step: step length, in units of the embeddings; a tensor must broadcast against the points.

    Example:
        >>> steepest_descent(0.5)(torch.zeros(1, 1, 2), torch.tensor([[[3.0, 4.0]]])).tolist()
        [[[-0.30000001192092896, -0.4000000059604645]]]
    """

    def move(point: Tensor, grad: Tensor) -> Tensor:
        return point - step * steepest_direction(grad)

    return move


def sign_descent(step: Tensor | float) -> Move:
    """Return a move against the gradient's sign: ``step / sqrt(D)`` in each coordinate, ``step`` in l2 for each token.

    Args:
        step: step length, in units of the embeddings; a tensor must broadcast against the points.

    Example:
        >>> sign_descent(2.0)(torch.zeros(1, 1, 4), torch.tensor([[[3.0, -4.0, 0.0, 1.0]]])).flatten().tolist()
        [-1.0, 1.0, 0.0, -1.0]
    """

    def move(point: Tensor, grad: Tensor) -> Tensor:
        return point - step / math.sqrt(point.shape[-1]) * grad.sign()

    return move


def with_projection(move: Move, radius: Tensor | float) -> Move:
    """Return a move followed by the projection of each token onto an l2 ball.

    Args:
        move: points and gradients -> next points.
        radius: radius of the ball, in units of the embeddings; a tensor must broadcast against the points.

    Example:
        >>> move = with_projection(steepest_descent(5.0), 1.0)
        >>> move(torch.zeros(1, 1, 2), torch.tensor([[[0.0, 2.0]]])).flatten().tolist()
        [0.0, -1.0]
    """

    def project_after(point: Tensor, grad: Tensor) -> Tensor:
        return project(move(point, grad), radius)

    return project_after


STEP_RULES = {"normalised": steepest_descent, "sign": sign_descent}
"""Rules of a step of the same l2 length: along the normalised gradient of each token, or along its sign."""

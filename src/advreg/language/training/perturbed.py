"""Perturbations of embeddings that training can differentiate around: what they may be, and how they climb."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from advreg import example_rng

Norm = Literal["token", "example", "linf"]
_TINY = 1e-30


def project(delta: Tensor, eps: float, norm: Norm) -> Tensor:
    """Return the nearest perturbation inside a ball: ``"token"`` l2 of each token, ``"example"`` l2 of all, ``"linf"``.

    Args:
        delta: ``(B, T, D)``.
        eps: radius, in units of the embeddings.
        norm: which ball.

    Example:
        >>> project(torch.tensor([[[3.0, 4.0]]]), 1.0, "token").tolist() == torch.tensor([[[0.6, 0.8]]]).tolist()
        True
    """
    if norm == "linf":
        return delta.clamp(-eps, eps)
    return delta * (eps / _size(delta, norm).clamp_min(_TINY)).clamp_max(1.0)


def steepest(grad: Tensor, norm: Norm) -> Tensor:
    """Return the direction of unit size in which a loss with this gradient rises most; zero where the gradient is.

    Args:
        grad: ``(B, T, D)``.
        norm: whose unit it is, as for `project`.
    """
    return grad.sign() if norm == "linf" else grad / _size(grad, norm).clamp_min(_TINY)


def _size(delta: Tensor, norm: Norm) -> Tensor:
    dims = (2,) if norm == "token" else (1, 2)
    size: Tensor = torch.linalg.vector_norm(delta, dim=dims, keepdim=True)
    return size


def random_start(ids: Tensor, shape: tuple[int, ...], scale: float, seed: int) -> Tensor:
    """Return uniform noise in ``[-scale, scale]``, ``(B, *shape)``; it belongs to (seed, id) and uses up no global draw."""
    return scale * (2 * example_rng.uniform(ids, shape, seed) - 1)


@contextmanager
def same_draws() -> Iterator[Callable[[], None]]:
    """Give a function that winds torch's random numbers back to here: what follows draws the same dropout masks.

    On leaving, the numbers go on from where the block left them.

    Example:
        >>> with same_draws() as rewind:
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

"""The l0 threat model: a limited number of values may change, each by as much as the box allows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from advreg.eps_and_box import ByValue
from advreg.errors import ThreatError
from advreg.threat import ThreatModel, broadcast_per_example, whole_box


@dataclass(frozen=True, eq=False)
class SparseThreat(ByValue):
    """All inputs that differ from the clean one in at most ``eps`` values, inside the valid ``box``.

    It has no steepest step, so it fits attacks that need a distance and a projection only, such as `fmn`.

    Args:
        eps: number of values that may change; one number, or one for each example ``(B,)``.
        box: lowest and highest valid value of an input.

    Raises:
        ThreatError: negative eps, an empty or infinite box.

    Example:
        >>> x = torch.zeros(1, 3)
        >>> SparseThreat(1).project(torch.tensor([[0.2, 0.9, 0.1]]), x).tolist()
        [[0.0, 0.8999999761581421, 0.0]]
    """

    eps: float | Tensor
    box: tuple[float, float] = (0.0, 1.0)
    norm: Literal["l0"] = "l0"
    one_per_example: bool = field(default=False, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        self._normalise()
        if not bool((torch.as_tensor(self.eps) >= 0).all()):
            raise ThreatError(f"eps is {self.eps}; give the number of values that may change, 0 or more")
        ThreatModel("l2", 0.0, self.box)  # rejects an invalid box

    @property
    def width(self) -> float:
        """Width of the box; default lengths of attacks are shares of it."""
        low, high = self.box
        return high - low

    def with_eps(self, eps: float | Tensor) -> SparseThreat:
        """Return the same threat model with another eps, or one for each example ``(B,)``."""
        return replace(self, eps=eps, one_per_example=True)

    def distance(self, a: Tensor, x: Tensor) -> Tensor:
        """Return the number of values that differ, as float64 ``(B,)``."""
        return (a != x).flatten(1).sum(1).double()

    def contains(self, a: Tensor, x: Tensor, tol: float = 0.0) -> Tensor:
        """Return whether each ``a`` differs from ``x`` in at most eps values and is inside the box, ``(B,)``.

        ``tol`` is the tolerance of the box, as a share of its width.
        """
        (low, high), slack = self.box, tol * self.width
        in_box = ((a >= low - slack) & (a <= high + slack)).flatten(1).all(1)
        return in_box & (self.distance(a, x) <= torch.as_tensor(self.eps, device=a.device))

    def project(self, a: Tensor, x: Tensor) -> Tensor:
        """Return each ``a`` cut at the box, with its eps largest changes; the other values are the clean ones."""
        inside = a.clamp(*self.box)
        change = (inside - x).flatten(1).abs()
        rank = change.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        count = torch.as_tensor(self.eps, device=x.device).expand(len(x))
        return torch.where((rank < count[:, None]).view_as(x), inside, x)

    def random_start(self, x: Tensor, ids: Tensor, seed: int, stream: int = 0) -> Tensor:
        """Return ``x`` with the eps largest changes of a uniform draw from the box.

        Args:
            x: clean inputs ``(B, ...)``.
            ids: example ids ``(B,)``; the draws of an example depend on its id, the seed and the stream only.
            seed: seed of the draws.
            stream: which of several independent draws.

        Returns:
            Points ``(B, ...)`` that differ from ``x`` in at most eps values.

        Example:
            >>> x = torch.zeros(1, 5)
            >>> int((SparseThreat(2).random_start(x, torch.tensor([0]), seed=0) != x).sum())
            2
        """
        return self.project(whole_box(self.box).random_start(x, ids, seed, stream), x)


Ball = ThreatModel | SparseThreat
"""A threat model with a distance, a projection and eps."""


def box_diameter(ball: Ball, x: Tensor) -> Tensor:
    """Return the distance between opposite corners of the box, in float64 ``(B,)``; no larger radius is needed.

    Args:
        ball: norm and box.
        x: inputs ``(B, ...)``, for the number of values.

    Returns:
        The distance.
    """
    low, high = ball.box
    return ball.distance(torch.full_like(x, high), torch.full_like(x, low))


def with_radius(ball: Ball, radius: Tensor, x: Tensor) -> Ball:
    """Return the ball with these radii ``(B,)``, at most the diameter of the box.

    Args:
        ball: norm and box.
        radius: radii ``(B,)``.
        x: inputs ``(B, ...)``, for the dtype.

    Returns:
        A ball of the same norm and box.
    """
    return ball.with_eps(radius.minimum(box_diameter(ball, x)))


def norm_like(ball: Ball, offset: Tensor) -> Tensor:
    """Return the norm of offsets ``(B, ...)``, shaped ``(B, 1, ...)`` to broadcast over them.

    Args:
        ball: the norm.
        offset: offsets ``(B, ...)``.

    Returns:
        Norms that broadcast over the offsets.
    """
    return broadcast_per_example(ball.distance(offset, torch.zeros_like(offset)).to(offset.dtype), offset)


def dual(ball: Ball, grad: Tensor) -> Tensor:
    """Return the dual norm of gradients ``(B,)``: the largest first-order gain of a step of unit length.

    Args:
        ball: norm and box.
        grad: gradients ``(B, ...)``.

    Returns:
        Dual norms ``(B,)``.

    Example:
        >>> dual(ThreatModel("linf", 0.1), torch.tensor([[3.0, -4.0]])).item()
        7.0
    """
    if isinstance(ball, SparseThreat):  # one value may change, by the width of the box at most
        return grad.flatten(1).abs().amax(1) * ball.width
    return (grad * ball.steepest(grad)).flatten(1).sum(1)

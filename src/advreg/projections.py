"""Euclidean projections onto the intersection of a norm ball and a box, on rows of offsets from the ball's centre.

Every function takes ``d (B, n)``, the offset to project, the offsets ``low <= 0 <= high`` at which each coordinate meets
the box, and ``radius (B, 1)``; it returns the nearest offset in the intersection. All are exact: they solve the optimality
conditions on the active set. Alternating projections onto ball and box would be feasible, but not nearest.
"""

from __future__ import annotations

import torch
from torch import Tensor


def l2_box(d: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
    """Project onto ``{||d||_2 <= radius, low <= d <= high}``.

    The solution is ``clamp(s d, low, high)`` with the largest ``s <= 1`` inside the ball. Each pass solves for ``s`` with
    the clamped coordinates fixed; ``s`` only grows, so the clamped set only grows, and a few passes suffice. A solved row
    no longer changes, so its result does not depend on how many passes other rows need.

    Args:
        d: offsets to project ``(B, n)``.
        low: offsets at which each coordinate meets the lower end of the box ``(B, n)``, at most 0.
        high: offsets at which each coordinate meets the upper end of the box ``(B, n)``, at least 0.
        radius: radii ``(B, 1)``.

    Returns:
        The nearest offsets ``(B, n)``.

    Example:
        >>> d, wide = torch.tensor([[3.0, 4.0]]), torch.full((1, 2), 9.0)
        >>> l2_box(d, -wide, wide, torch.tensor([[5.0]])).tolist()
        [[3.0, 4.0]]
    """
    size, room = d.abs(), torch.where(d > 0, high, -low)
    size, room, radius = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (size, room, radius))
    scale: Tensor = (radius / size.norm(dim=1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)
    every = 1 if d.device.type == "cpu" else 8  # the check waits for a GPU, and a further round changes nothing
    for k in range(d.shape[1]):
        free = size * scale < room
        left = radius.square() - torch.where(free, 0.0, room).square().sum(1, keepdim=True)
        spread = torch.where(free, size, 0.0).square().sum(1, keepdim=True)
        grown = (left.clamp_min(0.0) / spread.clamp_min(1e-30)).sqrt().clamp_max(1.0).maximum(scale)
        if k % every == every - 1 and bool((grown <= scale).all()):
            break
        scale = grown
    length = (size * scale).minimum(room).to(d.dtype)
    return torch.where(d > 0, length, -length)


def l1_box(d: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
    """Project onto ``{||d||_1 <= radius, low <= d <= high}``.

    The solution is ``sign(d) clamp(|d| - t, 0, room)`` with the smallest ``t >= 0`` inside the ball. Its l1 norm is
    piecewise linear and decreasing in ``t``, with a kink where a coordinate leaves the box and one where it vanishes;
    sorting the kinks gives the piece on which it equals the radius.

    Args:
        d: offsets to project ``(B, n)``.
        low: offsets at which each coordinate meets the lower end of the box ``(B, n)``, at most 0.
        high: offsets at which each coordinate meets the upper end of the box ``(B, n)``, at least 0.
        radius: radii ``(B, 1)``.

    Returns:
        The nearest offsets ``(B, n)``.

    Example:
        >>> d, wide = torch.tensor([[3.0, 1.0]]), torch.full((1, 2), 9.0)
        >>> l1_box(d, -wide, wide, torch.tensor([[2.0]])).tolist()
        [[2.0, 0.0]]

    Reference: Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions", ICML 2008, without
    the box.
    """
    size, room = d.abs().double(), torch.where(d > 0, high, -low).double()
    leaves = (size - room).clamp_min(0.0)
    kinks, order = torch.cat([leaves, size], 1).sort(1)
    slope = torch.ones_like(kinks)
    slope[:, size.shape[1] :] = -1.0
    falling = slope.gather(1, order).cumsum(1)  # coordinates that shrink just after each kink
    widths = torch.diff(kinks, dim=1, prepend=torch.zeros_like(kinks[:, :1]))
    falling_before = torch.cat([torch.zeros_like(falling[:, :1]), falling[:, :-1]], 1)
    norm = size.minimum(room).sum(1, keepdim=True) - (widths * falling_before).cumsum(1)
    piece = (norm > radius).sum(1, keepdim=True).sub(1).clamp_min(0)
    excess = (norm.gather(1, piece) - radius).clamp_min(0.0)
    threshold = kinks.gather(1, piece) + excess / falling.gather(1, piece).clamp_min(1.0)
    inside = size.minimum(room).sum(1, keepdim=True) <= radius
    length = (size - torch.where(inside, 0.0, threshold)).clamp_min(0.0).minimum(room)
    length = length * (radius / length.sum(1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)  # rounding of the sums
    return d.sign() * length.to(d.dtype)

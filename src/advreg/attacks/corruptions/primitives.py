"""Building blocks of corruptions: random draws of each example, blurs, resampling, and random fields."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg import example_rng

_SIDE = 224
"""Side in pixels of the images for which the lengths were published."""


@dataclass(frozen=True)
class Draws:
    """Random numbers of one corruption, which depend on the seed, the example id and the number of the draw only.

    Attributes:
        ids: example ids ``(B,)``.
        seed: seed of the draws.
        lane: first random stream of the corruption.
    """

    ids: Tensor
    seed: int
    lane: int

    def uniform(self, x: Tensor, shape: tuple[int, ...], which: int = 0) -> Tensor:
        """Return uniform numbers on [0, 1), ``(B, *shape)``, in the dtype of ``x``, for draw number ``which``."""
        return example_rng.uniform(self.ids, shape, self.seed, self.lane + which, x.dtype)

    def normal(self, x: Tensor, shape: tuple[int, ...], which: int = 0) -> Tensor:
        """Return standard normal numbers ``(B, *shape)``, in the dtype of ``x``, for draw number ``which``."""
        return example_rng.normal(self.ids, shape, self.seed, self.lane + which, x.dtype)


def pixels(x: Tensor, length: float) -> float:
    """Return a length published for 224 pixels as pixels of ``x``: the same share of its shorter side.

    Args:
        x: images ``(B, C, H, W)``, for the size.
        length: length in pixels of a 224-pixel image.

    Returns:
        Length in pixels of ``x``.

    Example:
        >>> pixels(torch.zeros(1, 3, 32, 32), 7.0)
        1.0
    """
    return length * min(x.shape[2:]) / _SIDE


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve every channel with an odd kernel ``(h, w)``, normalised to sum 1, with replicated edges.

    Args:
        x: images ``(B, C, H, W)``.
        kernel: weights ``(h, w)``, both sizes odd.

    Returns:
        Images ``(B, C, H, W)``.

    Example:
        >>> convolve(torch.ones(1, 1, 4, 4), torch.ones(3, 3)).mean().item()
        1.0
    """
    padded = F.pad(x, (kernel.shape[1] // 2,) * 2 + (kernel.shape[0] // 2,) * 2, mode="replicate")
    weight = (kernel / kernel.sum()).to(x).expand(x.shape[1], 1, *kernel.shape)
    return F.conv2d(padded, weight, groups=x.shape[1])


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian of ``sigma`` pixels.

    Args:
        x: images ``(B, C, H, W)``.
        sigma: standard deviation in pixels; 0 or less for no blur.

    Returns:
        Images ``(B, C, H, W)``.
    """
    if sigma <= 0:
        return x
    reach = torch.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1, dtype=torch.float64)
    line = torch.exp(-reach.square() / (2 * sigma**2))
    return convolve(convolve(x, line[None]), line[:, None])


def sample_at_offset(x: Tensor, offset: Tensor) -> Tensor:
    """Return each pixel sampled at an offset, bilinear, with replicated edges.

    Args:
        x: images ``(B, C, H, W)``.
        offset: pixels to the right and down, ``(B, H, W, 2)`` or broadcastable to it.

    Returns:
        Images ``(B, C, H, W)``.
    """
    height, width = x.shape[2:]
    down = torch.arange(height, dtype=x.dtype, device=x.device)[:, None].expand(height, width)
    right = torch.arange(width, dtype=x.dtype, device=x.device).expand(height, width)
    place = torch.stack([right, down], -1) + offset
    size = torch.tensor([width, height], dtype=x.dtype, device=x.device)
    grid = (2 * place + 1) / size - 1
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), padding_mode="border", align_corners=False)


def zoom_in(x: Tensor, factor: float) -> Tensor:
    """Magnify about the centre, bilinear, cropped to the same size.

    Args:
        x: images ``(B, C, H, W)``.
        factor: magnification, 1 or more.

    Returns:
        Images ``(B, C, H, W)``.
    """
    theta = torch.tensor([[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]]).to(x)
    grid = F.affine_grid(theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def line_blur(x: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """Blur along a line with Gaussian weights.

    Args:
        x: images ``(B, C, H, W)``.
        radius: half the length of the line in pixels.
        sigma: standard deviation of the weights in pixels.
        degrees: angle of the line of each example ``(B,)``.

    Returns:
        Images ``(B, C, H, W)``.

    Example:
        >>> line_blur(torch.ones(1, 1, 4, 4), radius=1.0, sigma=1.0, degrees=torch.tensor([30.0])).mean().item()
        1.0
    """
    steps = max(math.ceil(2 * radius), 2)
    reach = torch.linspace(-radius, radius, 2 * steps + 1, dtype=torch.float64)
    weights = torch.exp(-reach.square() / (2 * max(sigma, 1e-3) ** 2))
    along = torch.stack([torch.deg2rad(degrees).cos(), torch.deg2rad(degrees).sin()], 1)[:, None, None]
    total = torch.zeros_like(x)  # a stack of all shifts would take up to 80 times the memory of the images
    for at, weight in zip(reach.tolist(), (weights / weights.sum()).tolist(), strict=True):
        total += weight * sample_at_offset(x, at * along)
    return total


def random_field(x: Tensor, draws: Draws, decay: float, which: int = 0) -> Tensor:
    """Return a random field ``(B, 1, H, W)`` from 0 to 1: a sum of octaves of noise.

    Args:
        x: images ``(B, C, H, W)``, for the size.
        draws: the random numbers.
        decay: factor by which each finer octave is weaker.
        which: number of the first draw.

    Returns:
        The field ``(B, 1, H, W)``; its minimum is 0 and its maximum 1.

    Example:
        >>> field = random_field(torch.zeros(1, 3, 8, 8), Draws(torch.tensor([0]), seed=0, lane=0), decay=2.0)
        >>> field.shape, field.min().item(), field.max().item()
        (torch.Size([1, 1, 8, 8]), 0.0, 1.0)
    """
    total = torch.zeros_like(x[:, :1])
    side, octave = max(x.shape[2:]), 0
    while 2**octave <= side:
        cells = 2**octave + 1
        grid = draws.uniform(x, (1, cells, cells), which + octave)
        smooth = F.interpolate(grid, x.shape[2:], mode="bilinear", align_corners=True)
        total = total + smooth / decay**octave
        octave += 1
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    return (total - low) / (high - low).clamp_min(1e-12)

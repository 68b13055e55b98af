"""The fifteen corruptions: functions of images in [0, 1], a severity index of 0 to 4, and draws; not clipped.

Strengths are those published for ImageNet-C; lengths are shares of its 224 pixels, so that images of any size get the same
treatment. Where the original needs photographs or runs pixel by pixel, the docstring describes the substitute.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg.attacks.corruptions.primitives import (
    Draws,
    convolve,
    gaussian_blur,
    line_blur,
    pixels,
    random_field,
    sample_at_offset,
    zoom_in,
)
from advreg.errors import DataError

Corruption = Callable[[Tensor, int, Draws], Tensor]


def gaussian_noise(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Add normal noise of standard deviation 0.08 to 0.38."""
    return x + (0.08, 0.12, 0.18, 0.26, 0.38)[k] * draws.normal(x, tuple(x.shape[1:]))


def shot_noise(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Draw a Poisson number of photons with mean ``c x``, divided by ``c``, from 60 photons for white down to 3."""
    photons = (60, 25, 12, 5, 3)[k]
    return _poisson(x * photons, draws.uniform(x, tuple(x.shape[1:])), photons) / photons


def _poisson(mean: Tensor, u: Tensor, largest: int) -> Tensor:
    """Draw Poisson counts by inversion: the number of counts with a cumulative probability below ``u``."""
    chance = torch.exp(-mean.double())
    below, count = chance.clone(), torch.zeros_like(chance)
    for n in range(1, largest + math.ceil(8 * math.sqrt(largest)) + 8):
        count += u > below
        chance = chance * mean / n
        below += chance
    return count.to(mean.dtype)


def impulse_noise(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Set 3% to 27% of the values to black or white, half of them each."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[k]
    u = draws.uniform(x, tuple(x.shape[1:]))
    return torch.where(u < share / 2, 0.0, torch.where(u >= 1 - share / 2, 1.0, x))


def defocus_blur(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Average over a disc of radius 3 to 10 of 224 pixels, with an edge one pixel soft."""
    radius = pixels(x, (3, 4, 6, 8, 10)[k])
    reach = torch.arange(-math.ceil(radius), math.ceil(radius) + 1, dtype=torch.float64)
    distance = torch.hypot(reach[:, None], reach[None])
    return convolve(x, (radius + 1 - distance).clamp(0, 1))


def glass_blur(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Sample every pixel at a random offset, once to three times, between two Gaussian blurs.

    The original swaps neighbours one after the other; here all pixels are sampled at once.
    """
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[k]
    image = gaussian_blur(x, pixels(x, sigma))
    for n in range(rounds):
        offset = 2 * draws.uniform(x, (*x.shape[2:], 2), n) - 1
        image = sample_at_offset(image, pixels(x, reach) * offset)
    return gaussian_blur(image, pixels(x, sigma))


def motion_blur(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Blur along a line at a random angle within 45 degrees of the horizontal."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[k]
    return line_blur(x, pixels(x, radius), pixels(x, sigma), 90 * draws.uniform(x, ()) - 45)


def zoom_blur(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Average over magnifications up to 1.1 to 1.3."""
    last, step = ((1.10, 0.01), (1.15, 0.01), (1.20, 0.02), (1.25, 0.02), (1.30, 0.03))[k]
    factors = [1 + step * n for n in range(round((last - 1) / step) + 1)]
    return torch.stack([x, *(zoom_in(x, factor) for factor in factors)]).mean(0)


def snow(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Brighten the image, and add streaks of flakes in two layers."""
    mean, spread, zoom, floor, radius, sigma, kept = (
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[k]
    flakes = zoom_in(mean + spread * draws.normal(x, (1, *x.shape[2:])), zoom)
    flakes = torch.where(flakes < floor, 0.0, flakes).clamp(0, 1)
    flakes = line_blur(flakes, pixels(x, radius), pixels(x, sigma), -45 - 90 * draws.uniform(x, (), 1))
    pale = torch.maximum(x, 1.5 * x.mean(1, keepdim=True) + 0.5)
    return kept * x + (1 - kept) * pale + flakes + flakes.flip((2, 3))


def frost(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Overlay crystals on a dimmed image.

    The original pastes photographs of frost; these are ridges of a random field.
    """
    kept, strength = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[k]
    ridges = (1 - (2 * random_field(x, draws, 1.6) - 1).abs()).square()
    return kept * x + strength * ridges * (0.4 + 0.6 * random_field(x, draws, 2.0, which=32))


def fog(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Add a random field of several octaves, then rescale so that white stays white."""
    strength, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[k]
    white = x.amax((1, 2, 3), keepdim=True)
    return (x + strength * random_field(x, draws, decay)) * white / (white + strength)


def brightness(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Raise the value, the largest channel, by 0.1 to 0.5; hue and saturation are unchanged."""
    value = x.amax(1, keepdim=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[k]).clamp_max(1)
    return torch.where(value > 0, x / value.clamp_min(1e-12), 1.0) * raised


def contrast(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Scale the distance from each channel's mean by 0.4 down to 0.05."""
    mean = x.mean((2, 3), keepdim=True)
    return mean + (0.4, 0.3, 0.2, 0.1, 0.05)[k] * (x - mean)


def elastic_transform(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Displace pixels by a smooth random field, 0.01 to 0.03 of the side on average.

    The original's five settings mix large and small displacements and are not ordered; here only the size grows.
    """
    field = gaussian_blur(draws.normal(x, (2, *x.shape[2:])), pixels(x, 12))
    length = field.square().sum(1, keepdim=True).mean((2, 3), keepdim=True).sqrt()
    bend = pixels(x, 224) * (0.010, 0.014, 0.019, 0.024, 0.030)[k] * field / length.clamp_min(1e-12)
    return sample_at_offset(x, bend.permute(0, 2, 3, 1))


def pixelate(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Shrink to 0.6 down to 0.25 of the size by averaging, then enlarge with constant blocks."""
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[k]
    small = F.interpolate(x, [max(int(side * share), 1) for side in x.shape[2:]], mode="area")
    return F.interpolate(small, x.shape[2:], mode="nearest-exact")


def jpeg_compression(x: Tensor, k: int, draws: Draws) -> Tensor:
    """Encode as JPEG of quality 25 down to 7, and decode.

    Raises:
        DataError: neither 1 nor 3 channels.
    """
    if x.shape[1] not in (1, 3):
        raise DataError(f"images have {x.shape[1]} channels; JPEG takes 1 or 3")
    quality = (25, 18, 15, 10, 7)[k]
    levels = (x.clamp(0, 1) * 255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1)
    return torch.stack([_jpeg(image, quality) for image in levels]).to(x) / 255


def _jpeg(levels: Tensor, quality: int) -> Tensor:
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(levels.squeeze(2).numpy()).save(file, "JPEG", quality=quality)
    back = torch.from_numpy(np.array(Image.open(file)))
    return back.view(*levels.shape).permute(2, 0, 1)


KINDS: dict[str, Corruption] = {
    kind.__name__: kind
    for kind in (
        gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, snow, frost, fog,
        brightness, contrast, elastic_transform, pixelate, jpeg_compression,
    )
}  # fmt: skip
"""Corruptions by name, in the order of the paper: noise, blur, weather, digital."""

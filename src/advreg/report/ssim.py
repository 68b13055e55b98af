"""Structural similarity: a measure of how similar two images look to people."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

WINDOW = 11
"""Side of the window in pixels."""
SIGMA = 1.5
"""Standard deviation of the window in pixels."""
K1, K2 = 0.01, 0.03
"""Stabilising constants of the paper."""


def ssim(a: NDArray[np.floating], b: NDArray[np.floating], value_range: float = 1.0) -> float:
    """Return the mean structural similarity of two images under a Gaussian window.

    ``(2 m_a m_b + c1) (2 s_ab + c2) / ((m_a^2 + m_b^2 + c1) (s_a^2 + s_b^2 + c2))``, averaged over every
    position where the whole window fits, and over channels. The window is 11 x 11 with sigma 1.5, smaller for
    smaller images.

    Args:
        a: image (C, H, W), in pixel units.
        b: image of the same shape.
        value_range: largest minus smallest valid pixel value.

    Returns:
        At most 1, which means identical images.

    Raises:
        ValueError: the shapes differ or are not (C, H, W).

    Example:
        >>> image = np.linspace(0, 1, 256).reshape(1, 16, 16)
        >>> ssim(image, image)
        1.0

    Reference:
        Wang, Bovik, Sheikh and Simoncelli, Image quality assessment: from error visibility to structural
        similarity, IEEE Transactions on Image Processing 13(4), 2004.
    """
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"images have shapes {a.shape} and {b.shape}, must both be the same (C, H, W)")
    x, y = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = (K1 * value_range) ** 2, (K2 * value_range) ** 2
    mean_a, mean_b = _blur(x), _blur(y)
    var_a, var_b = _blur(x * x) - mean_a**2, _blur(y * y) - mean_b**2
    cov = _blur(x * y) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * cov + c2) / (var_a + var_b + c2)
    return float(np.mean(luminance * structure))


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Gaussian mean at every position where the whole window fits inside the image."""
    for axis in (1, 2):
        radius = (min(WINDOW, image.shape[axis]) - 1) // 2
        weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * SIGMA**2))
        blurred = correlate1d(image, weights / weights.sum(), axis=axis)
        inside = [slice(None)] * 3
        inside[axis] = slice(radius, image.shape[axis] - radius)
        image = blurred[tuple(inside)]
    return image

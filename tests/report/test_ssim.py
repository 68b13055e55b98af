"""Structural similarity against closed forms and against the definition written out window by window."""

from __future__ import annotations

import numpy as np
import pytest

from advreg.report.ssim import ssim

C1, C2 = 0.01**2, 0.03**2
RNG = np.random.default_rng(7)


def by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """Every 11 x 11 window on its own: weighted means, variances and covariance as sums of products."""
    grid = np.arange(11) - 5
    weights = np.exp(-(grid[:, None] ** 2 + grid[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            p, q = a[top : top + 11, left : left + 11], b[top : top + 11, left : left + 11]
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            cov = (weights * (p - mp) * (q - mq)).sum()
            values.append((2 * mp * mq + C1) * (2 * cov + C2) / ((mp**2 + mq**2 + C1) * (vp + vq + C2)))
    return float(np.mean(values))


def test_identical_images_have_ssim_one() -> None:
    image = RNG.random((3, 20, 17))
    assert ssim(image, image) == 1.0


def test_two_flat_images_differ_in_luminance_alone() -> None:
    a, b = 0.3, 0.7
    expected = (2 * a * b + C1) / (a * a + b * b + C1)
    assert ssim(np.full((1, 15, 15), a), np.full((1, 15, 15), b)) == pytest.approx(expected, rel=1e-9)


def test_contrast_alone_follows_the_closed_form() -> None:
    board = np.indices((11, 11)).sum(axis=0) % 2 - 0.5  # one window: every sum has a closed form in the variance v
    grid = np.arange(11) - 5
    line = np.exp(-(grid**2) / (2 * 1.5**2))
    line /= line.sum()
    mean = 0.5 * (line * (-1.0) ** np.arange(11)).sum() ** 2 * -1
    v = 0.25 - mean**2
    k = 0.5
    luminance = (2 * k * mean**2 + C1) / (mean**2 * (1 + k * k) + C1)
    structure = (2 * k * v + C2) / (v * (1 + k * k) + C2)
    assert ssim(board[None], k * board[None]) == pytest.approx(luminance * structure, rel=1e-9)


def test_negative_image_has_negative_ssim() -> None:
    image = RNG.random((1, 24, 24))
    assert ssim(image, 1 - image) < -0.5


@pytest.mark.parametrize("shape", [(11, 11), (14, 19), (28, 28)])
def test_ssim_equals_the_definition(shape: tuple[int, int]) -> None:
    a = RNG.random(shape)
    b = (a + 0.1 * RNG.standard_normal(shape)).clip(0, 1)
    assert ssim(a[None], b[None]) == pytest.approx(by_definition(a, b), rel=1e-9)


def test_ssim_averages_channels_and_is_symmetric() -> None:
    a, b = RNG.random((3, 16, 16)), RNG.random((3, 16, 16))
    assert ssim(a, b) == pytest.approx(np.mean([ssim(a[k : k + 1], b[k : k + 1]) for k in range(3)]))
    assert ssim(a, b) == pytest.approx(ssim(b, a))


def test_ssim_does_not_depend_on_the_pixel_unit() -> None:
    a, b = RNG.random((1, 16, 16)), RNG.random((1, 16, 16))
    assert ssim(255 * a, 255 * b, value_range=255.0) == pytest.approx(ssim(a, b))


def test_images_smaller_than_the_window_have_a_value() -> None:
    a, b = RNG.random((1, 8, 5)), RNG.random((1, 8, 5))
    assert ssim(a, a) == 1.0
    assert -1 <= ssim(a, b) < 1


def test_images_of_unequal_shape_are_rejected() -> None:
    with pytest.raises(ValueError, match="must both be the same"):
        ssim(np.zeros((1, 8, 8)), np.zeros((1, 8, 9)))

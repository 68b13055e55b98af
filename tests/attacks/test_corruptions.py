"""Corruptions against the means, deviations and blocks of their definitions, without snapshots."""

from __future__ import annotations

import io
import itertools

import pytest
import torch
from scipy.stats import poisson
from torch.nn import functional as F

from advreg.attacks.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corruption_accuracy
from advreg.attacks.corruptions.primitives import gaussian_blur, line_blur, sample_at_offset
from advreg.errors import DataError, ModelError

from .models import Counter, small_cnn

UNORDERED = {"snow", "frost", "fog", "pixelate"}  # the published constants trade one strength for another half way


def images(n: int = 6, channels: int = 3, side: int = 32, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return smooth random images with a little noise."""
    g = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(n, channels, 7, 7, generator=g, dtype=dtype), (side, side), mode="bicubic")
    return (coarse + 0.05 * torch.randn(n, channels, side, side, generator=g, dtype=dtype)).clamp(0, 1)


def grey(value: float, n: int = 40, channels: int = 3) -> torch.Tensor:
    return torch.full((n, channels, 32, 32), value, dtype=torch.float64)


def by_severity(*values: float) -> list[tuple[int, float]]:
    return list(zip(SEVERITIES, values, strict=False))


def test_corruptions_are_the_fifteen_of_the_paper() -> None:
    assert len(CORRUPTIONS) == len(set(CORRUPTIONS)) == 15


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_corruption_returns_a_different_image(name: str, channels: int) -> None:
    for dtype in (torch.float32, torch.float64):
        x = images(3, channels, dtype=dtype)
        for severity in SEVERITIES:
            out = corrupt(x, name, severity)
            assert out.shape == x.shape
            assert out.dtype == dtype
            assert float(out.min()) >= 0
            assert float(out.max()) <= 1
            assert ((out - x).flatten(1).norm(dim=1) > 0.01).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_changes_more(name: str) -> None:
    x = images(12)
    change = [float((corrupt(x, name, s) - x).flatten(1).norm(dim=1).mean()) for s in SEVERITIES]
    compared = change[::2] if name in UNORDERED else change
    assert all(weaker < stronger for weaker, stronger in itertools.pairwise(compared))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_results_do_not_depend_on_the_batch(name: str) -> None:
    x, ids = images(7), torch.arange(7) * 5
    whole = corrupt(x, name, 4, ids=ids, seed=3)
    for rows in torch.arange(7).split(2):
        torch.testing.assert_close(corrupt(x[rows], name, 4, ids=ids[rows], seed=3), whole[rows], atol=1e-12, rtol=0)
    same = corrupt(x[:1].expand(2, -1, -1, -1), name, 4, ids=torch.tensor([9, 9]))
    assert torch.equal(same[0], same[1])


RANDOM = {
    "gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog",
    "elastic_transform",
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_draws_depend_on_id_and_seed(name: str) -> None:
    x = images(1).expand(2, -1, -1, -1)
    out = corrupt(x, name, 3, ids=torch.tensor([1, 2]), seed=0)
    other = corrupt(x, name, 3, ids=torch.tensor([1, 2]), seed=1)
    assert torch.equal(out[0], out[1]) == torch.equal(out, other) == (name not in RANDOM)


@pytest.mark.parametrize(("severity", "sigma"), by_severity(0.08, 0.12, 0.18))
def test_gaussian_noise_has_its_deviation(severity: int, sigma: float) -> None:
    noise = corrupt(grey(0.5), "gaussian_noise", severity) - 0.5
    assert float(noise.std()) == pytest.approx(sigma, rel=0.01)
    assert float(noise.mean()) == pytest.approx(0.0, abs=sigma / 100)


@pytest.mark.parametrize(("severity", "photons"), by_severity(60, 25, 12, 5, 3))
def test_shot_noise_is_poisson(severity: int, photons: int) -> None:
    mean = 0.2
    counts = corrupt(grey(mean), "shot_noise", severity) * photons
    torch.testing.assert_close(counts, counts.round())
    for k in range(photons):
        assert float((counts.round() <= k).double().mean()) == pytest.approx(poisson.cdf(k, mean * photons), abs=0.006)
    assert (corrupt(grey(0.0, 2), "shot_noise", severity) == 0).all()


@pytest.mark.parametrize(("severity", "share"), by_severity(0.03, 0.06, 0.09, 0.17, 0.27))
def test_impulse_noise_sets_its_share_to_black_and_white(severity: int, share: float) -> None:
    out = corrupt(grey(0.4), "impulse_noise", severity)
    for value in (0.0, 1.0):
        assert float((out == value).double().mean()) == pytest.approx(share / 2, rel=0.05)
    assert float((out == 0.4).double().mean()) == pytest.approx(1 - share, abs=0.005)


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform"])
def test_blurs_keep_constant_images_and_the_range(name: str) -> None:
    torch.testing.assert_close(corrupt(grey(0.3, 2), name, 5), grey(0.3, 2))
    x = images(4)
    out = corrupt(x, name, 5)
    assert (out.amax((2, 3)) <= x.amax((2, 3)) + 1e-9).all()
    if name != "elastic_transform":
        assert (out.diff(dim=3).abs().mean((1, 2, 3)) < x.diff(dim=3).abs().mean((1, 2, 3))).all()


def test_defocus_spreads_a_point_over_a_disc() -> None:
    x = torch.zeros(1, 1, 224, 224, dtype=torch.float64)
    x[0, 0, 112, 112] = 1
    out = corrupt(x, "defocus_blur", 3)[0, 0]
    assert float(out.sum()) == pytest.approx(1.0)
    assert float(out[112, 112]) == pytest.approx(float(out[112, 117]))  # flat within 6 pixels
    assert float(out[112, 118]) > 0
    assert float(out[112, 120]) == 0
    torch.testing.assert_close(out, out.T)


def test_gaussian_blur_has_its_width_and_offsets_add_up() -> None:
    x = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    x[0, 0, 20, 20] = 1
    spread = torch.arange(41, dtype=torch.float64) - 20
    assert float((gaussian_blur(x, 2.0)[0, 0].sum(0) * spread.square()).sum()) == pytest.approx(4.0, rel=0.03)
    streak = line_blur(x, 9.0, 3.0, torch.tensor([0.0], dtype=torch.float64))[0, 0]
    assert float((streak.sum(0) * spread.square()).sum()) == pytest.approx(9.0, rel=0.1)
    assert float((streak.sum(1) * spread.square()).sum()) == pytest.approx(0.0, abs=1e-9)
    y = images(1)
    to_the_right = sample_at_offset(y, torch.tensor([1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(to_the_right[..., :-1], y[..., 1:])


@pytest.mark.parametrize(("severity", "rise"), by_severity(0.1, 0.2, 0.3, 0.4, 0.5))
def test_brightness_keeps_hue_and_saturation(severity: int, rise: float) -> None:
    x = images(4) * 0.4 + 0.05
    out = corrupt(x, "brightness", severity)
    torch.testing.assert_close(out.amax(1), x.amax(1) + rise)
    torch.testing.assert_close(out / out.amax(1, keepdim=True), x / x.amax(1, keepdim=True))
    torch.testing.assert_close(corrupt(grey(0.0, 1), "brightness", severity), grey(rise, 1))


@pytest.mark.parametrize(("severity", "factor"), by_severity(0.4, 0.3, 0.2, 0.1, 0.05))
def test_contrast_shrinks_the_deviation_and_keeps_the_mean(severity: int, factor: float) -> None:
    x = images(4)
    out = corrupt(x, "contrast", severity)
    torch.testing.assert_close(out.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(out.std((2, 3)), factor * x.std((2, 3)))


@pytest.mark.parametrize(("severity", "block"), [(2, 2), (5, 4)])
def test_pixelate_averages_blocks(severity: int, block: int) -> None:
    x = images(3)
    out = corrupt(x, "pixelate", severity)
    means = F.avg_pool2d(x, block)
    torch.testing.assert_close(out, means.repeat_interleave(block, 2).repeat_interleave(block, 3))


@pytest.mark.parametrize(("severity", "quality"), by_severity(25, 18, 15, 10, 7))
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_equals_pillow_at_its_quality(severity: int, quality: int, channels: int) -> None:
    import numpy as np
    from PIL import Image

    x = images(2, channels)
    levels = (x[1] * 255).round().to(torch.uint8).permute(1, 2, 0)
    file = io.BytesIO()
    picture = levels.numpy() if channels == 3 else levels[..., 0].numpy()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    expected = torch.from_numpy(np.array(Image.open(file))).view(32, 32, channels).permute(2, 0, 1)
    assert torch.equal((corrupt(x, "jpeg_compression", severity)[1] * 255).round(), expected.double())


def test_fog_and_snow_brighten_and_fog_hides_contrast() -> None:
    dark = images(6) * 0.5
    for name in ("snow", "frost"):
        assert (corrupt(dark, name, 5).mean((1, 2, 3)) > dark.mean((1, 2, 3)) + 0.05).all()
    stripes = (torch.arange(32) % 2).double().expand(1, 3, 32, 32)
    across = [
        float((corrupt(stripes, "fog", s)[..., 1] - corrupt(stripes, "fog", s)[..., 0]).mean()) for s in (1, 3, 5)
    ]
    expected = [1 / (1 + strength) for strength in (1.5, 2.5, 3.0)]  # white / (white + strength)
    assert across == pytest.approx(expected, abs=0.08)


def test_corruption_accuracy_counts_correct_predictions() -> None:
    model = small_cnn(dtype=torch.float64)
    x = torch.rand(60, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    y, count = model(x).argmax(1), Counter(model)
    table = corruption_accuracy(model, x, y, (1, 5), ("contrast", "gaussian_noise"), batch_size=7)
    assert count.forwards == 4 * 60
    assert {name: list(row) for name, row in table.items()} == {"contrast": [1, 5], "gaussian_noise": [1, 5]}
    for name, row in table.items():
        for severity, accuracy in row.items():
            assert accuracy == float((model(corrupt(x, name, severity)).argmax(1) == y).double().mean())
    assert min(min(row.values()) for row in table.values()) < 1
    everything = corruption_accuracy(
        lambda points: F.one_hot(torch.ones(len(points)).long(), 5).double(), x[:2], y[:2] * 0
    )
    assert set(everything) == set(CORRUPTIONS)
    assert {value for row in everything.values() for value in row.values()} == {0.0}


X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: corrupt(X, "gausian_noise"), DataError, "Did you mean 'gaussian_noise'"),
        (lambda: corrupt(X, "fog", 6), DataError, "severity is 6; allowed: 1 to 5"),
        (lambda: corrupt(X * 255, "fog"), DataError, "divide images by 255"),
        (lambda: corrupt(X.flatten(1), "fog"), DataError, r"\(B, C, H, W\)"),
        (lambda: corrupt((X * 255).to(torch.uint8), "fog"), DataError, r"images.float\(\) / 255"),
        (lambda: corrupt(X / 0, "fog"), DataError, "NaN or infinity"),
        (lambda: corrupt(torch.rand(2, 5, 8, 8), "jpeg_compression"), DataError, "JPEG takes 1 or 3"),
        (lambda: corruption_accuracy(small_cnn().train(), X[:, :1], torch.tensor([0, 1])), ModelError, "model.eval"),
    ],
)
def test_bad_input_raises_one_line(call, kind, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)

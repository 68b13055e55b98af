"""Spatial attack: exact rotations and translations, the worst pose of the grid, exact cost."""

from __future__ import annotations

import pytest
import torch

from advreg import attacks
from advreg.attacks.spatial import pose_grid, rotate_translate, spatial
from advreg.errors import DataError, ModelError, ThreatError
from advreg.objectives import margin
from advreg.threat import whole_box

from .models import Counter, images_of_small_cnn, linear, small_cnn


def test_quarter_turn_permutes_pixels_and_shift_moves_columns() -> None:
    x = images_of_small_cnn()[0]
    for quarters in range(-2, 3):
        torch.testing.assert_close(rotate_translate(x, 90.0 * quarters), torch.rot90(x, quarters, (2, 3)))
    right = rotate_translate(x, 0.0, right=2)
    torch.testing.assert_close(right[..., 2:], x[..., :-2])
    assert (right[..., :2] < 1e-12).all()
    down = rotate_translate(x, 0.0, down=3)
    torch.testing.assert_close(down[:, :, 3:], x[:, :, :-3])
    torch.testing.assert_close(rotate_translate(x, 0.0), x)
    torch.testing.assert_close(rotate_translate(x, 0.0, right=0.5)[..., 1:], (x[..., 1:] + x[..., :-1]) / 2)


def test_rotation_precedes_translation_for_any_aspect_ratio() -> None:
    x = torch.zeros(1, 1, 5, 9, dtype=torch.float64)
    x[0, 0, 2, 6] = 1  # two pixels right of the centre
    turned = rotate_translate(x, 90.0)
    assert turned[0, 0, 0, 4] == pytest.approx(1.0)  # two above it
    assert rotate_translate(x, 90.0, right=3, down=1)[0, 0, 1, 7] == pytest.approx(1.0)
    torch.testing.assert_close(rotate_translate(rotate_translate(x, 180.0), 180.0), x)


def test_pixels_from_outside_get_the_lowest_value() -> None:
    x = torch.full((1, 2, 4, 4), 0.5, dtype=torch.float64)
    out = rotate_translate(x, 0.0, right=1, box=(-1.0, 1.0))
    assert (out[..., 0] == -1).all()
    torch.testing.assert_close(out[..., 1:], x[..., 1:])


def test_pose_grid_has_corners_and_starts_with_clean_pose() -> None:
    poses = pose_grid(30.0, 3.0, (31, 5))
    assert len(poses) == len(set(poses)) == 775
    assert poses[0] == (0.0, 0.0, 0.0)
    assert {(30.0, 3.0, -3.0), (-30.0, -3.0, -3.0)} <= set(poses)
    assert pose_grid(0.0, 3.0, (31, 5)) == pose_grid(0.0, 3.0, (1, 5))


def test_spatial_finds_the_worst_pose() -> None:
    (x, y), model = images_of_small_cnn(30), small_cnn(dtype=torch.float64)
    poses = pose_grid(40.0, 2.0, (5, 3))
    losses = torch.stack([margin(model(rotate_translate(x, *pose)), y).detach() for pose in poses])
    found = spatial(model, x, y, degrees=40, pixels=2, grid=(5, 3), early_stop=False)
    torch.testing.assert_close(found.loss, losses.amax(0))
    assert torch.equal(found.broken, losses.amax(0) > 0)
    assert 0 < found.broken.sum() < 30
    quick = spatial(model, x, y, degrees=40, pixels=2, grid=(5, 3), batch_size=7)
    assert torch.equal(quick.broken, found.broken)
    assert torch.equal(quick.broken, attacks.verify(model, x, quick.x_adv, y, whole_box()))
    finer = spatial(model, x, y, degrees=40, pixels=2, grid=(9, 5))
    assert (finer.broken | ~found.broken).all()


def test_spatial_costs_the_grid_plus_two_forwards() -> None:
    model = linear(64, classes=3, seed=1)
    model[1].weight.data.zero_()  # no pose changes its output
    count, x = Counter(model), images_of_small_cnn()[0]
    found = spatial(model, x, model(x).argmax(1), grid=(5, 3))
    assert found.cost.tolist() == [[5 * 9 + 2, 0]] * 12
    assert found.forwards == count.forwards - 12  # the labels above


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda x, y: spatial(small_cnn(), x, y, grid=(0, 5)), ThreatError, "counts >= 1"),
        (lambda x, y: spatial(small_cnn(), x, y, degrees=-1), ThreatError, "extents >= 0"),
        (lambda x, y: spatial(small_cnn(), x.flatten(1), y), DataError, r"give images \(B, C, H, W\)"),
        (lambda x, y: spatial(small_cnn().train(), x, y), ModelError, "model.eval"),
    ],
)
def test_spatial_rejects_bad_input_in_one_line(call, kind, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        call(*images_of_small_cnn(4, torch.float32))
    assert "\n" not in str(caught.value)

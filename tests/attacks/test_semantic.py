"""Rotations, shifts and patches: exact where the answer is known, and judged like everything else."""

from __future__ import annotations

import pytest
import torch

from advreg import ThreatModel, attacks
from advreg.attacks.blackbox import square
from advreg.attacks.semantic import MaskThreat, anything, moved, patch, poses, spatial, square_masks
from advreg.errors import DataError, ModelError, ThreatError
from advreg.objectives import margin

from .models import Counter, linear, small_cnn


def images(n: int = 12, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(n, 1, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(3))
    return x, small_cnn(dtype=dtype)(x).argmax(1)


def test_a_quarter_turn_is_a_permutation_and_a_shift_moves_columns() -> None:
    x = images()[0]
    for quarters in range(-2, 3):
        torch.testing.assert_close(moved(x, 90.0 * quarters), torch.rot90(x, quarters, (2, 3)))
    right = moved(x, 0.0, right=2)
    torch.testing.assert_close(right[..., 2:], x[..., :-2])
    assert (right[..., :2] < 1e-12).all()
    down = moved(x, 0.0, down=3)
    torch.testing.assert_close(down[:, :, 3:], x[:, :, :-3])
    torch.testing.assert_close(moved(x, 0.0), x)
    torch.testing.assert_close(moved(x, 0.0, right=0.5)[..., 1:], (x[..., 1:] + x[..., :-1]) / 2)


def test_turning_comes_before_shifting_and_images_need_not_be_square() -> None:
    x = torch.zeros(1, 1, 5, 9, dtype=torch.float64)
    x[0, 0, 2, 6] = 1  # two pixels right of the middle
    turned = moved(x, 90.0)
    assert turned[0, 0, 0, 4] == pytest.approx(1.0)  # two above it
    assert moved(x, 90.0, right=3, down=1)[0, 0, 1, 7] == pytest.approx(1.0)
    torch.testing.assert_close(moved(moved(x, 180.0), 180.0), x)


def test_what_comes_in_from_outside_is_the_lowest_value_of_the_box() -> None:
    x = torch.full((1, 2, 4, 4), 0.5, dtype=torch.float64)
    out = moved(x, 0.0, right=1, box=(-1.0, 1.0))
    assert (out[..., 0] == -1).all()
    torch.testing.assert_close(out[..., 1:], x[..., 1:])


def test_the_grid_holds_its_corners_and_begins_with_the_clean_pose() -> None:
    every = poses(30.0, 3.0, (31, 5))
    assert len(every) == len(set(every)) == 775
    assert every[0] == (0.0, 0.0, 0.0)
    assert {(30.0, 3.0, -3.0), (-30.0, -3.0, -3.0)} <= set(every)
    assert poses(0.0, 3.0, (31, 5)) == poses(0.0, 3.0, (1, 5))


def test_spatial_finds_the_worst_of_the_grid() -> None:
    (x, y), model = images(30), small_cnn(dtype=torch.float64)
    every = poses(40.0, 2.0, (5, 3))
    losses = torch.stack([margin(model(moved(x, *pose)), y).detach() for pose in every])
    found = spatial(model, x, y, degrees=40, pixels=2, grid=(5, 3), early_stop=False)
    torch.testing.assert_close(found.loss, losses.amax(0))
    assert torch.equal(found.broken, losses.amax(0) > 0)
    assert 0 < found.broken.sum() < 30
    quick = spatial(model, x, y, degrees=40, pixels=2, grid=(5, 3), batch_size=7)
    assert torch.equal(quick.broken, found.broken)
    assert torch.equal(quick.broken, attacks.verify(model, x, quick.x_adv, y, anything()))
    finer = spatial(model, x, y, degrees=40, pixels=2, grid=(9, 5))
    assert (finer.broken | ~found.broken).all()


def test_spatial_costs_its_grid_and_two() -> None:
    model = linear(64, classes=3, seed=1)
    model[1].weight.data.zero_()  # nothing moves it
    count, x = Counter(model), images()[0]
    found = spatial(model, x, model(x).argmax(1), grid=(5, 3))
    assert found.cost.tolist() == [[5 * 9 + 2, 0]] * 12
    assert found.forwards == count.forwards - 12  # the labels above


def test_a_patch_changes_nothing_outside_and_stays_in_the_box() -> None:
    x, y = images(20, torch.float32)
    model = small_cnn()
    corners = torch.stack([torch.arange(20) % 5, torch.arange(20) % 3], 1)
    found = patch(model, x, y, size=4, steps=20, corners=corners)
    mask = square_masks(x, 4, corners)
    assert mask.flatten(1).sum(1).tolist() == [16] * 20
    assert torch.equal(found.x_adv[~mask], x[~mask])
    assert (found.x_adv >= 0).all()
    assert (found.x_adv <= 1).all()
    assert found.broken.any()
    assert torch.equal(found.broken, attacks.verify(model, x, found.x_adv, y, MaskThreat.of(mask)))


@pytest.mark.parametrize("attack", [attacks.pgd, square])
def test_any_linf_attack_reaches_the_optimum_under_a_mask(attack) -> None:
    model, x = linear(64, seed=2), images(6)[0]
    y = model(x).argmax(1)
    mask = square_masks(x, 3, torch.tensor([[0, 0], [5, 5], [2, 3], [1, 4], [0, 5], [4, 0]]))
    w = (model[1].weight[1] - model[1].weight[0]).detach().view(1, 1, 8, 8) * (1 - 2 * y.double()).view(-1, 1, 1, 1)
    best = torch.where(mask, (w > 0).double(), x)
    options = {"steps": 50, "step_size": 0.1} if attack is attacks.pgd else {"queries": 3000}
    found = attack(model, x, y, MaskThreat.of(mask), early_stop=False, **options)
    torch.testing.assert_close(margin(model(found.x_adv), y), margin(model(best), y), atol=1e-9, rtol=0)


def test_a_mask_contains_what_it_projects_and_nothing_that_touches_the_rest() -> None:
    x = images(4)[0]
    threat = MaskThreat.of(square_masks(x, 2, torch.tensor([[0, 0], [6, 6], [3, 3], [0, 6]])))
    wild = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inside = threat.project(wild, x)
    assert threat.contains(inside, x).all()
    assert torch.equal(threat.project(inside, x), inside)
    assert not threat.contains((inside + 1e-3).clamp(0, 1), x).any()
    assert not threat.contains(inside * 2 - 1, x).any()
    rows = torch.tensor([2, 0])
    assert torch.equal(threat.select(rows).project(wild[rows], x[rows]), inside[rows])
    start = threat.random_start(x, torch.arange(4), seed=1)
    assert threat.contains(start, x).all()


def test_places_belong_to_the_example_and_more_of_them_never_break_fewer() -> None:
    (x, y), model = images(16), small_cnn(dtype=torch.float64)
    ids = torch.arange(16) * 7
    whole = patch(model, x, y, size=3, steps=8, places=2, ids=ids)
    parts = [patch(model, x[r], y[r], size=3, steps=8, places=2, ids=ids[r]) for r in torch.arange(16).split(3)]
    assert torch.equal(torch.cat([p.broken for p in parts]), whole.broken)
    assert torch.equal(torch.cat([p.x_adv for p in parts]), whole.x_adv)
    once = patch(model, x, y, size=3, steps=8, ids=ids)
    many = patch(model, x, y, size=3, steps=8, places=5, ids=ids)
    assert (whole.broken | ~once.broken).all()
    assert (many.broken | ~whole.broken).all()
    assert many.broken.sum() > once.broken.sum()


def test_a_standing_example_costs_the_patches_it_saw() -> None:
    model = linear(64, classes=3, seed=1)
    model[1].weight.data.mul_(1e-6)
    x = images()[0]
    y, count = model(x).argmax(1), Counter(model)
    found = patch(model, x, y, size=3, steps=6, places=2)
    assert found.cost.tolist() == [[2 * (6 + 3), 2 * 6]] * 12
    assert (found.forwards, found.backwards) == (count.forwards, count.backwards)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda x, y: spatial(small_cnn(), x, y, grid=(0, 5)), ThreatError, "counts >= 1"),
        (lambda x, y: spatial(small_cnn(), x, y, degrees=-1), ThreatError, "extents >= 0"),
        (lambda x, y: spatial(small_cnn(), x.flatten(1), y), DataError, r"needs images \(B, C, H, W\)"),
        (lambda x, y: spatial(small_cnn().train(), x, y), ModelError, "model.eval"),
        (lambda x, y: patch(small_cnn(), x, y, size=9), ThreatError, "give 1 to 8"),
        (lambda x, y: patch(small_cnn(), x, y, size=0), ThreatError, "give 1 to 8"),
        (lambda x, y: patch(small_cnn(), x[:, 0], y, size=2), DataError, "needs images"),
        (lambda x, y: patch(small_cnn(), x, y, size=3, corners=torch.full((4, 2), 6)), ThreatError, "rows 0 to 5"),
        (lambda x, y: patch(small_cnn(), x * 255, y, size=3), DataError, "divide images by 255"),
    ],
)
def test_refuses_in_one_line(call, kind, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        call(*images(4, torch.float32))
    assert "\n" not in str(caught.value)


def test_the_whole_box_is_a_threat_model() -> None:
    x = torch.rand(3, 5)
    assert anything((-1.0, 1.0)).contains(-torch.ones(3, 5), x).all()
    assert isinstance(anything(), ThreatModel)

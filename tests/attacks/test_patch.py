"""Patch attack and mask threat model: changes inside the mask only, the optimum of linear models, exact cost."""

from __future__ import annotations

import pytest
import torch

from advreg import attacks
from advreg.attacks.blackbox import square
from advreg.attacks.patch import MaskThreat, patch, square_masks
from advreg.errors import DataError, ThreatError
from advreg.objectives import margin

from .models import Counter, images_of_small_cnn, linear, small_cnn


def test_patch_changes_only_its_square_inside_the_box() -> None:
    x, y = images_of_small_cnn(20, torch.float32)
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
def test_linf_attacks_reach_the_optimum_inside_a_mask(attack) -> None:
    model, x = linear(64, seed=2), images_of_small_cnn(6)[0]
    y = model(x).argmax(1)
    mask = square_masks(x, 3, torch.tensor([[0, 0], [5, 5], [2, 3], [1, 4], [0, 5], [4, 0]]))
    w = (model[1].weight[1] - model[1].weight[0]).detach().view(1, 1, 8, 8) * (1 - 2 * y.double()).view(-1, 1, 1, 1)
    best = torch.where(mask, (w > 0).double(), x)
    options = {"steps": 50, "step_size": 0.1} if attack is attacks.pgd else {"queries": 3000}
    found = attack(model, x, y, MaskThreat.of(mask), early_stop=False, **options)
    torch.testing.assert_close(margin(model(found.x_adv), y), margin(model(best), y), atol=1e-9, rtol=0)


def test_mask_threat_contains_only_changes_inside_the_mask() -> None:
    x = images_of_small_cnn(4)[0]
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


def test_patch_places_depend_on_id_and_more_break_more() -> None:
    (x, y), model = images_of_small_cnn(16), small_cnn(dtype=torch.float64)
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


def test_patch_costs_every_place_of_a_survivor() -> None:
    model = linear(64, classes=3, seed=1)
    model[1].weight.data.mul_(1e-6)
    x = images_of_small_cnn()[0]
    y, count = model(x).argmax(1), Counter(model)
    found = patch(model, x, y, size=3, steps=6, places=2)
    assert found.cost.tolist() == [[2 * (6 + 3), 2 * 6]] * 12
    assert (found.forwards, found.backwards) == (count.forwards, count.backwards)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda x, y: patch(small_cnn(), x, y, size=9), ThreatError, "give 1 to 8"),
        (lambda x, y: patch(small_cnn(), x, y, size=0), ThreatError, "give 1 to 8"),
        (lambda x, y: patch(small_cnn(), x[:, 0], y, size=2), DataError, "give images"),
        (lambda x, y: patch(small_cnn(), x, y, size=3, corners=torch.full((4, 2), 6)), ThreatError, "rows 0 to 5"),
        (lambda x, y: patch(small_cnn(), x * 255, y, size=3), DataError, "divide images by 255"),
    ],
)
def test_patch_rejects_bad_input_in_one_line(call, kind, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        call(*images_of_small_cnn(4, torch.float32))
    assert "\n" not in str(caught.value)

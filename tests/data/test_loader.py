"""Batches are a function of (seed, epoch), and what happens to an example does not depend on its batch."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from advreg.data import Batches, Dataset, augmentation
from advreg.data.augment import crop_flip
from advreg.errors import DataError

N = 23
DATA = Dataset.from_tensors(
    torch.randint(0, 256, (N, 2, 6, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8),
    torch.arange(N) % 4,
)


def _by_id(batches, epoch):
    return {int(i): x for batch in batches.epoch(epoch) for i, x in zip(batch.ids, batch.x, strict=True)}


def test_every_epoch_shows_every_example_once_with_its_own_label():
    for batch_size in (1, 7, N, 100):
        batches = Batches(DATA, batch_size, seed=1)
        epoch = list(batches.epoch(3))
        ids = torch.cat([b.ids for b in epoch])
        assert len(epoch) == len(batches)
        assert sorted(ids.tolist()) == list(range(N))
        for batch in epoch:
            assert torch.equal(batch.y, DATA.labels[batch.ids])
            assert torch.equal(batch.x, DATA.images[batch.ids].float() / 255)


def test_order_depends_on_seed_and_epoch_and_on_nothing_else():
    def order(seed, epoch, batch_size=5):
        return torch.cat([b.ids for b in Batches(DATA, batch_size, seed).epoch(epoch)]).tolist()

    torch.manual_seed(5)
    first = order(0, 1)
    torch.manual_seed(6)
    assert order(0, 1, batch_size=9) == first
    assert len({tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_a_resumed_run_sees_the_batches_it_would_have_seen():
    whole = Batches(DATA, 4, seed=2, augment=augmentation("crop-flip"))
    for epoch in range(3):
        list(whole.epoch(epoch))
    resumed = Batches(DATA, 4, seed=2, augment=augmentation("crop-flip"))
    for a, b in zip(whole.epoch(3), resumed.epoch(3), strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.ids, b.ids)


def test_without_shuffling_the_order_is_the_data_sets():
    ids = torch.cat([b.ids for b in Batches(DATA, 6, seed=0, shuffle=False).epoch(4)])
    assert torch.equal(ids, torch.arange(N))


def test_augmentation_belongs_to_the_example_not_to_the_batch():
    augment = augmentation("crop-flip")
    one = _by_id(Batches(DATA, 1, seed=0, shuffle=False, augment=augment), 2)
    many = _by_id(Batches(DATA, 10, seed=0, augment=augment), 2)
    assert all(torch.equal(one[i], many[i]) for i in range(N))
    later = _by_id(Batches(DATA, 10, seed=0, augment=augment), 3)
    assert any(not torch.equal(one[i], later[i]) for i in range(N))


def test_crop_flip_is_a_window_of_the_padded_image():
    image = torch.arange(1, 21).view(1, 1, 4, 5)
    padded = torch.zeros(1, 1, 8, 9, dtype=torch.int64)
    padded[..., 2:6, 2:7] = image
    windows = {}
    for top in range(5):
        for left in range(5):
            window = padded[0, 0, top : top + 4, left : left + 5]
            windows[tuple(window.flatten().tolist())] = (top, left, False)
            windows[tuple(window.flip(1).flatten().tolist())] = (top, left, True)
    count = 2000
    out = crop_flip(image.expand(count, 1, 4, 5), torch.arange(count), seed=0, epoch=0, pad=2)
    seen = [windows[tuple(row)] for row in out.flatten(1).tolist()]  # a KeyError here is no window at all
    assert len(set(seen)) == 50
    assert 0.45 < sum(flipped for _, _, flipped in seen) / count < 0.55


def test_crop_alone_never_mirrors_and_flip_alone_never_shifts():
    images = torch.arange(1, 5).view(1, 1, 1, 4).expand(64, 1, 1, 4)
    ids = torch.arange(64)
    flipped = augmentation("flip")(images, ids, 0, 0).flatten(1).tolist()
    assert {tuple(row) for row in flipped} == {(1, 2, 3, 4), (4, 3, 2, 1)}
    cropped = partial(crop_flip, pad=1, flip=False)(images, ids, 0, 0).flatten(1).tolist()
    assert {tuple(row) for row in cropped} == {(0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 0), (0, 0, 0, 0)}


def test_augmentation_keeps_type_shape_and_channels_together():
    images = DATA.images[:, :1].repeat(1, 3, 1, 1)
    out = crop_flip(images, torch.arange(N), seed=0, epoch=0)
    assert out.dtype == torch.uint8
    assert out.shape == images.shape
    assert torch.equal(out[:, 0], out[:, 2])


def test_unknown_augmentation_and_batch_size_are_rejected():
    assert augmentation("none") is None
    with pytest.raises(DataError, match="Did you mean 'crop-flip'"):
        augmentation("cropflip")
    with pytest.raises(DataError, match="batch_size must be 1 or more, given 0"):
        Batches(DATA, 0, seed=0)


def test_drop_last_leaves_out_the_smaller_batch_only() -> None:
    data = Dataset.from_tensors(torch.rand(10, 1, 2, 2), torch.arange(10) % 2)
    whole, dropped = Batches(data, 4, seed=0), Batches(data, 4, seed=0, drop_last=True)
    assert (len(whole), len(dropped), len(Batches(data, 11, seed=0, drop_last=True))) == (3, 2, 1)
    for epoch in range(3):
        kept = [batch.ids.tolist() for batch in dropped.epoch(epoch)]
        assert kept == [batch.ids.tolist() for batch in whole.epoch(epoch)][:2]


def test_balanced_epochs_draw_each_class_equally_often():
    """One of twenty images is of class 1: its share of 4,000 draws is a half, within four standard deviations."""
    rare = Dataset.from_tensors(torch.zeros(400, 1, 2, 2, dtype=torch.uint8), (torch.arange(400) % 20 == 0).long())
    batches = Batches(rare, 64, seed=3, balanced=True)
    labels = torch.cat([batch.y for epoch in range(10) for batch in batches.epoch(epoch)])
    assert len(labels) == 4000
    assert abs(float(labels.float().mean()) - 0.5) < 4 * (0.25 / 4000) ** 0.5
    first, other = (torch.cat(batches.rows(epoch)) for epoch in (1, 2))
    again = torch.cat(Batches(rare, 64, seed=3, balanced=True).rows(1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for label in (0, 1):
        drawn = first[rare.labels[first] == label]
        assert len(drawn.unique()) > 1, "different images of each class"

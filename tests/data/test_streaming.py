"""Images read from a disk are those in memory, in the same batches, however many workers read them."""

from __future__ import annotations

import shutil
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

import advreg
from advreg.data import Batches, augmentation, stream
from advreg.data.streaming import Crop, random_window
from advreg.errors import DataError


def write_folder(root, n=12, size=12, classes=("cat", "dog", "owl")):
    """Write noise of different sizes, one folder for each class, train and test."""
    rng = np.random.default_rng(0)
    for part, count in (("train", n), ("val", 3)):
        for k, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(60 * k, 60 * k + 100, (size + i % 3, size + 2, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("photos"))


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_are_those_in_memory(photos, workers):
    name = f"folder:{photos}?size=8"
    (inside, _), (outside, _) = advreg.load_data(name), stream(name)
    options = {"batch_size": 7, "seed": 3, "augment": augmentation("crop-flip"), "part": (1, 2)}
    for epoch in (1, 2):
        whole = list(Batches(inside, **options).epoch(epoch))
        read = list(Batches(outside, **options, workers=workers).epoch(epoch))
        assert len(whole) == len(read) == 6
        for a, b in zip(whole, read, strict=True):
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.y, b.y)
            assert torch.equal(a.ids, b.ids)
            assert a.weight == b.weight


def test_streamed_data_equal_data_in_memory(photos):
    name = f"folder:{photos}?size=8"
    for inside, outside in zip(advreg.load_data(name), stream(name), strict=True):
        assert (len(inside), inside.classes, inside.split) == (len(outside), outside.classes, outside.split)
        rows = [5, 0, 2]
        for a, b in ((inside, outside), (inside.select(rows), outside.select(rows))):
            for x, y in zip(a.tensors(), b.tensors(), strict=True):
                assert torch.equal(x, y)
        assert outside.to("cpu").fingerprint() == inside.fingerprint()


def test_streamed_fingerprint_depends_on_paths_and_labels(photos, tmp_path):
    moved = shutil.copytree(photos, tmp_path / "elsewhere")

    def fingerprint(root):
        return stream(f"folder:{root}?size=8")[0].fingerprint()

    assert fingerprint(moved) == fingerprint(photos)
    rows = [3, 1, 2]
    assert len({stream(f"folder:{photos}?size=8")[0].select(some).fingerprint() for some in (rows, [1, 3, 2])}) == 2
    shutil.copy(moved / "train" / "cat" / "0.png", moved / "train" / "cat" / "new.png")
    assert fingerprint(moved) != fingerprint(photos)


def test_nothing_is_read_before_it_is_wanted(photos, monkeypatch):
    read = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda path: read.append(path) or original(path))
    train, _ = stream(f"folder:{photos}?size=8")
    assert read == []
    next(Batches(train, 4, seed=0).epoch(1))
    assert len(read) == 4


def test_random_crops_belong_to_example_and_epoch(photos):
    train, _ = stream(f"folder:{photos}?size=8")

    def images(epoch, batch_size, workers):
        batches = Batches(train, batch_size, seed=1, workers=workers, crop="random").epoch(epoch)
        return {int(i): x for batch in batches for i, x in zip(batch.ids, batch.x, strict=True)}

    once, again, later = images(1, 5, 0), images(1, 9, 2), images(2, 5, 0)
    assert all(torch.equal(once[i], again[i]) for i in once)
    assert sum(torch.equal(once[i], later[i]) for i in once) < 3


def test_random_crops_are_of_the_sizes_they_should_be():
    image = Image.new("RGB", (300, 200))
    boxes = [random_window(image, row, Crop(seed=0, epoch=1)) for row in range(500)]
    shares = [(right - left) * (bottom - top) / 60000 for left, top, right, bottom in boxes]
    assert min(shares) > 0.07
    assert max(shares) <= 1
    assert np.mean(shares) == pytest.approx(0.54, abs=0.06)  # a little less: some do not fit as they are
    assert all(0 <= left < right <= 300 and 0 <= top < bottom <= 200 for left, top, right, bottom in boxes)
    assert len(set(pairwise(boxes))) > 490


@pytest.fixture
def damaged(tmp_path):
    root = write_folder(tmp_path, n=4)
    (root / "train" / "dog" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nthen nothing")
    return root


def broken_row(train):
    return [path.parts[-2:] for path in train.paths].index(("dog", "1.png"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_in_one_line(damaged, workers):
    train, _ = stream(f"folder:{damaged}?size=8")
    with pytest.raises(DataError, match=r"dog/1\.png is not a readable image .*; repair or remove it") as error:
        list(Batches(train, 4, seed=0, workers=workers).epoch(1))
    assert "\n" not in str(error.value)


def test_a_broken_image_is_skipped_where_that_is_wanted(damaged):
    name = f"folder:{damaged}?size=8&broken=skip"
    train, _ = stream(name)
    with pytest.warns(UserWarning, match=r"dog/1\.png is not a readable image .*; it is skipped"):
        ids = sorted(int(i) for batch in Batches(train, 4, seed=0).epoch(1) for i in batch.ids)
    assert ids == [row for row in range(12) if row != broken_row(train)]
    with pytest.warns(UserWarning, match=r"dog/1\.png"):
        inside, _ = advreg.load_data(name)
    with warnings.catch_warnings(action="ignore"):
        assert train.to("cpu").fingerprint() == inside.fingerprint()


@pytest.mark.filterwarnings("ignore:.*is skipped")
def test_a_batch_of_nothing_but_broken_images_is_left_out(damaged):
    train, _ = stream(f"folder:{damaged}?size=8&broken=skip")
    broken = broken_row(train)
    alone = list(Batches(train, 1, seed=0).epoch(1))
    assert sorted(int(batch.ids) for batch in alone) == [row for row in range(12) if row != broken]
    assert all(batch.weight == 1 for batch in alone)
    together = [list(Batches(train, 2, seed=0, part=(rank, 2)).epoch(1)) for rank in (0, 1)]
    assert [len(part) for part in together] == [6, 6], "the others wait for this one in every step"
    assert [len(batch.y) for part in together for batch in part if not batch.weight] == [1]
    assert sorted(int(batch.ids) for part in together for batch in part if batch.weight) == sorted(
        int(batch.ids) for batch in alone
    )


@pytest.mark.filterwarnings("ignore:.*is skipped")
def test_nothing_but_broken_images_is_rejected(damaged):
    train, _ = stream(f"folder:{damaged}?size=8&broken=skip")
    only = train.select([broken_row(train)])
    for read in (only.tensors, lambda: only.to("cpu"), lambda: list(Batches(only, 4, seed=0).epoch(1))):
        with pytest.raises(DataError, match="1 streamed images of 8x8, 3 classes>: nothing but broken images"):
            read()


@pytest.mark.filterwarnings("ignore:.*is skipped")
def test_the_first_examples_are_the_first_that_can_be_read(damaged):
    train, _ = stream(f"folder:{damaged}?size=8&broken=skip")
    rows = [broken_row(train), 3, 5]
    assert Batches(train.select(rows), 4, seed=0).first(1).ids.tolist() == [1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder:{root}", "must come in one size"),
        ("folder:{root}?size=8&broken=keep", "allowed are refuse and skip"),
        ("folder:{root}?size=8&brokn=skip", "Did you mean 'broken'?"),
        ("mnist", "cannot be streamed"),
    ],
)
def test_what_cannot_be_streamed_is_one_line(photos, name, message):
    with pytest.raises(DataError) as error:
        stream(name.format(root=photos))
    assert message in str(error.value)

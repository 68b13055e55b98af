"""Folders of images: every mode becomes 8 bits of one size, and whatever cannot be read is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import advreg
from advreg.data import stream
from advreg.data.hash_split import is_test
from advreg.data.images import pixels
from advreg.errors import DataError


def _save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _flat(path, colour, mode="RGB", size=(6, 6)):
    _save(path, Image.new(mode, size, colour))


def _names(split, count):
    """File names that the hash puts into one part, so that a test knows where each image goes."""
    names = (f"{k}.png" for k in range(1000))
    return [name for name in names if is_test(f"cat/{name}") == is_test(f"dog/{name}") == (split == "test")][:count]


@pytest.fixture
def pets(tmp_path):
    for name in _names("train", 4) + _names("test", 2):
        _flat(tmp_path / "cat" / name, (10, 20, 30))
        _flat(tmp_path / "dog" / name, (200, 100, 0))
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_class_folders_become_labels_with_a_fixed_split(pets):
    train, test = advreg.load_data(f"folder:{pets}")
    assert train.classes == ("cat", "dog")
    assert (len(train), len(test)) == (8, 4)
    for part in (train, test):
        assert torch.equal(part.images[:, 0, 0, 0], torch.tensor([10, 200], dtype=torch.uint8)[part.labels])


def test_a_new_image_moves_no_other(pets):
    _, before = advreg.load_data(f"folder:{pets}")
    _flat(pets / "dog" / _names("train", 9)[-1], (1, 1, 1))
    train, after = advreg.load_data(f"folder:{pets}")
    assert len(train) == 9
    assert after.fingerprint() == before.fingerprint()


@pytest.mark.parametrize("held", ["test", "val"])
def test_given_parts_are_kept(tmp_path, held):
    for part, colour in (("train", 5), (held, 9)):
        for name in ("a", "b"):
            _flat(tmp_path / part / name / "x.png", colour, "L")
    train, test = advreg.load_data(f"folder:{tmp_path}")
    assert (int(train.images[0, 0, 0, 0]), int(test.images[0, 0, 0, 0])) == (5, 9)
    assert train.images.shape == (2, 1, 6, 6)


@pytest.mark.parametrize(("beside", "message"), [("valid", "beside it is valid/"), (None, "beside it is nothing")])
@pytest.mark.parametrize("load", [advreg.load_data, stream])
def test_a_training_part_without_a_test_part_is_no_class(tmp_path, beside, message, load):
    for part in filter(None, ("train", beside)):
        for k, name in enumerate(_names("train", 4) + _names("test", 4)):
            _flat(tmp_path / part / ("cat", "dog")[k % 2] / name, 5, "L")
    with pytest.raises(
        DataError, match=rf"train/ holds classes, and {message}; allowed: test/ or val/ beside"
    ) as caught:
        load(f"folder:{tmp_path}?size=6")
    assert "\n" not in str(caught.value)


def test_train_may_be_the_name_of_a_class(tmp_path):
    for name in [*_names("train", 9), *_names("test", 9), *map("{}.png".format, range(40))]:
        _flat(tmp_path / "train" / name, 5, "L")
        _flat(tmp_path / "bus" / name, 5, "L")
    assert advreg.load_data(f"folder:{tmp_path}")[0].classes == ("bus", "train")


@pytest.mark.parametrize("load", [advreg.load_data, stream])
def test_one_class_is_nothing_to_tell_apart(tmp_path, load):
    for name in _names("train", 4) + _names("test", 4):
        _flat(tmp_path / "cat" / name, 5, "L")
    with pytest.raises(DataError, match="'cat' is the only class with training images; give two or more"):
        load(f"folder:{tmp_path}?size=6")


def test_size_and_mode_are_options_of_the_name(tmp_path):
    for name in ("a", "b"):
        _flat(tmp_path / "train" / name / "x.png", 7, "L", (30, 20))
        _flat(tmp_path / "test" / name / "y.jpg", 7, "L", (9, 50))
    train, test = advreg.load_data(f"folder:{tmp_path}?size=8&mode=rgb")
    assert train.images.shape == test.images.shape == (2, 3, 8, 8)
    assert (train.images == 7).all()


def test_a_colour_image_anywhere_makes_all_of_them_colour(tmp_path):
    for name in ("a", "b"):
        _flat(tmp_path / "train" / name / "x.png", 7, "L")
    _flat(tmp_path / "test" / "a" / "y.png", (1, 2, 3))
    train, test = advreg.load_data(f"folder:{tmp_path}")
    assert train.images.shape[1] == test.images.shape[1] == 3


def test_the_crop_is_the_middle():
    image = Image.fromarray(np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[None], 8, 0))  # 24 wide, 8 high
    assert pixels(image, "grey", 8)[0, 0].tolist() == list(range(80, 160, 10))


@pytest.mark.parametrize(
    ("values", "expected"),
    [(np.array([[0, 257, 65535]], np.uint16), [0, 1, 255]), (np.array([[0, 128, 129]], np.uint16), [0, 0, 1])],
)
def test_16_bits_are_scaled_not_cut(tmp_path, values, expected):
    _save(tmp_path / "deep.png", Image.fromarray(values))
    with Image.open(tmp_path / "deep.png") as image:
        assert pixels(image, "grey", None)[0, 0].tolist() == expected


def test_bits_of_deep_images_are_an_option(tmp_path):
    deep = np.array([[0, 2048, 4095]], np.uint16)  # 12 bits, as many medical images have
    for place in ("train/a", "train/b", "test/a", "test/b"):
        _save(tmp_path / place / "0.png", Image.fromarray(deep))
    train, _ = advreg.load_data(f"folder:{tmp_path}?bits=12")
    assert train.images[0, 0, 0].tolist() == [0, 128, 255]
    assert torch.equal(stream(f"folder:{tmp_path}?bits=12&size=1x3&mode=grey")[0].tensors()[0], train.tensors()[0])
    with pytest.raises(DataError, match="bits=40; deep grey images use 9 to 16"):
        advreg.load_data(f"folder:{tmp_path}?bits=40")


@pytest.mark.parametrize("reader", [advreg.load_data, stream])
def test_a_size_of_height_and_width_is_no_square(tmp_path, reader):
    for place in ("train/a", "train/b", "test/a", "test/b"):
        _save(tmp_path / place / "0.jpg", Image.new("CMYK", (300, 170), (0, 0, 0, 0)))
    train, _ = reader(f"folder:{tmp_path}?size=17x30")
    x, _ = train.tensors()
    assert x.shape == (2, 3, 17, 30)
    assert "17x30" in repr(train)
    assert bool((x > 0.99).all())


def test_images_that_exceed_the_memory_raise_one_line(pets, monkeypatch):
    monkeypatch.setattr("advreg.data.images.total_memory", lambda: 500)
    with pytest.raises(DataError, match=r"8 images of 3x6x6 need .* GB, this machine has .* data.stream = true"):
        advreg.load_data(f"folder:{pets}")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_three_bytes(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    _save(path, Image.new("RGB", (4, 4), "white").convert(mode))
    with Image.open(path) as image:
        assert (pixels(image, "rgb", None) == 255).all()


def test_a_photograph_is_turned_upright(tmp_path):
    image = Image.new("L", (4, 2), 0)
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: turned by a quarter
    image.save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as opened:
        assert pixels(opened, "grey", None).shape == (1, 4, 2)


@pytest.mark.parametrize("content", [b"", b"no image", "half"])
def test_a_broken_image_is_named(pets, content):
    path = pets / "dog" / _names("train", 1)[0]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(DataError, match=rf"{path} is not a readable image") as caught:
        advreg.load_data(f"folder:{pets}")
    assert "\n" not in str(caught.value)


def test_images_of_different_sizes_need_a_size(pets):
    path = pets / "dog" / _names("train", 1)[0]
    _flat(path, (1, 1, 1), size=(7, 6))
    with pytest.raises(DataError, match=rf"{path} is 7x6.*\?size=224"):
        advreg.load_data(f"folder:{pets}")


def test_what_cannot_be_a_data_set_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        advreg.load_data(f"folder:{tmp_path / 'absent'}")
    with pytest.raises(DataError, match="no images in its subfolders"):
        advreg.load_data(f"folder:{tmp_path}")
    _flat(tmp_path / "cat" / "x.png", 3)
    with pytest.raises(DataError, match="too few to split"):
        advreg.load_data(f"folder:{tmp_path}")
    with pytest.raises(DataError, match="Did you mean 'size'"):
        advreg.load_data(f"folder:{tmp_path}?sise=3")
    with pytest.raises(DataError, match="not a number"):
        advreg.load_data(f"folder:{tmp_path}?size=big")
    with pytest.raises(DataError, match="size=0 is not"):
        advreg.load_data(f"folder:{tmp_path}?size=0")
    with pytest.raises(DataError, match="mode=color is unknown"):
        advreg.load_data(f"folder:{tmp_path}?mode=color")


def test_a_class_without_training_images_is_named(tmp_path):
    _flat(tmp_path / "train" / "a" / "x.png", 7, "L")
    _flat(tmp_path / "test" / "b" / "y.png", 7, "L")
    with pytest.raises(DataError, match="class 'b' has test images but no training images"):
        advreg.load_data(f"folder:{tmp_path}")


def test_the_first_images_are_a_sample_of_all_classes(tmp_path):
    for k in range(60):
        _flat(tmp_path / "test" / ("cat", "dog", "owl")[k // 20] / f"{k}.png", k, "L")
        _flat(tmp_path / "train" / ("cat", "dog", "owl")[k // 20] / f"{k}.png", k, "L")
    train, test = advreg.load_data(f"folder:{tmp_path}")
    for part in (train, test):
        assert set(part.tensors(n=15)[1].tolist()) == {0, 1, 2}
        assert torch.equal(part.images[:, 0, 0, 0].long() // 20, part.labels)  # labels went along


def test_images_of_any_kind_make_one_data_set(tmp_path):
    deep = np.full((30, 50), 40 * 257, np.uint16)
    for part in ("train", "test"):
        _save(tmp_path / part / "mixed" / "deep.png", Image.fromarray(deep))
        _flat(tmp_path / part / "mixed" / "wide.png", (40, 40, 40), "RGB", (300, 20))
        _flat(tmp_path / part / "mixed" / "tall.tiff", 40, "L", (9, 90))
        _flat(tmp_path / part / "other" / "clear.webp", (40, 40, 40, 255), "RGBA", (16, 16))
    train, test = advreg.load_data(f"folder:{tmp_path}?size=16")
    for part in (train, test):
        assert part.images.shape == (4, 3, 16, 16)
        assert int((part.images.int() - 40).abs().max()) <= 1  # webp is lossy
        assert part.classes == ("mixed", "other")

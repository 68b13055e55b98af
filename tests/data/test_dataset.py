"""A data set is validated when it is made; errors are one line."""

from __future__ import annotations

import pytest
import torch

from advreg.data import Dataset, check_labels, check_pair, check_pixels
from advreg.errors import DataError

IMAGES = torch.arange(3 * 2 * 4 * 4).reshape(3, 2, 4, 4).to(torch.uint8)
LABELS = torch.tensor([0, 2, 1])
CLASSES = ("a", "b", "c")


def _dataset(**changes):
    return Dataset(**{"images": IMAGES, "labels": LABELS, "classes": CLASSES, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": IMAGES.float()}, "uint8 0-255, given float32; floats in .* Dataset.from_tensors"),
        ({"images": IMAGES.float() / 0}, "uint8 0-255, given float32"),
        ({"images": IMAGES.numpy()}, "torch.Tensor, given ndarray"),
        ({"images": IMAGES[0]}, r"\(N, C, H, W\), given \(2, 4, 4\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "not be empty"),
        ({"images": IMAGES[:2]}, "2 images but 3 labels"),
        ({"labels": torch.tensor([0, 3, 1])}, r"label 3 of example 1 is outside 0\.\.2"),
        ({"labels": torch.tensor([0, -1, 1])}, "label -1 of example 1"),
        ({"labels": LABELS.float()}, "whole numbers"),
        ({"labels": LABELS.int()}, "int64, given torch.int32"),
        ({"labels": LABELS[:, None]}, r"shape \(B,\)"),
    ],
)
def test_bad_data_is_rejected_in_one_line(changes, message):
    with pytest.raises(DataError, match=message) as caught:
        _dataset(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((2, 1, 2, 2), 255.0), "look like 0-255, divide them by 255"),
        (torch.full((2, 1, 2, 2), float("nan")), "NaN or infinity, first in example 0"),
        (torch.tensor([0.0, float("inf")]).view(2, 1, 1, 1), "first in example 1"),
        (torch.full((2, 1, 2, 2), -0.5), "normalisation inside the model"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.int64), "floating point in 0 to 1, given int64"),
        (torch.zeros(2), "must be a batch"),
        (torch.zeros(0, 1, 2, 2), "not empty"),
        ([[0.5]], "given list"),
    ],
)
def test_bad_pixels_are_rejected_in_one_line(x, message):
    with pytest.raises(DataError, match=message) as caught:
        check_pixels(x)
    assert "\n" not in str(caught.value)


def test_good_pixels_pass_to_the_very_edge_of_the_box():
    check_pixels(torch.tensor([[0.0, 1.0]]))
    check_pixels(torch.tensor([[-1.0, 1.0]]), box=(-1, 1))
    check_pair(torch.rand(2, 1, 2, 2), torch.tensor([0, 9]), classes=10)


def test_a_pair_of_unequal_lengths_is_rejected():
    with pytest.raises(DataError, match="3 inputs but 2 labels"):
        check_pair(torch.rand(3, 1, 2, 2), torch.tensor([0, 1]))


def test_labels_of_unknown_classes_still_may_not_be_negative():
    with pytest.raises(DataError, match="label -2 of example 1 is negative"):
        check_labels(torch.tensor([4, -2]))


def test_tensors_round_trip_through_pixels():
    x, y = _dataset().tensors()
    assert x.dtype == torch.float32
    assert torch.equal(x, IMAGES.float() / 255)
    again = Dataset.from_tensors(x, y, CLASSES)
    assert torch.equal(again.images, IMAGES)
    assert again.fingerprint() == _dataset().fingerprint()


def test_every_8_bit_value_survives_the_way_to_floats_and_back():
    images = torch.arange(256).to(torch.uint8).view(1, 1, 16, 16)
    x, y = Dataset(images, torch.tensor([0]), ("a",)).tensors()
    assert torch.equal(Dataset.from_tensors(x, y).images, images)


def test_tensors_takes_a_piece_and_stops_at_the_end():
    x, y = _dataset().tensors(n=5, start=1)
    assert torch.equal(y, LABELS[1:])
    assert len(x) == 2
    with pytest.raises(DataError, match="no 5 examples from 3 on"):
        _dataset().tensors(n=5, start=3)
    with pytest.raises(DataError, match="no 0 examples"):
        _dataset().tensors(n=0)


def test_select_takes_rows_in_order():
    picked = _dataset(name="toy", split="train").select([2, 0])
    assert torch.equal(picked.images, IMAGES[[2, 0]])
    assert torch.equal(picked.labels, LABELS[[2, 0]])
    assert (picked.name, picked.split, picked.classes) == ("toy", "train", CLASSES)


def test_fingerprint_depends_on_content_and_order():
    own = _dataset().fingerprint()
    strided = IMAGES.clone(memory_format=torch.channels_last)
    assert _dataset(images=strided, name="other").fingerprint() == own
    changed = IMAGES.clone()
    changed[0, 0, 0, 0] += 1
    others = [
        _dataset(images=changed),
        _dataset(labels=LABELS.flip(0)),
        _dataset(images=IMAGES.view(3, 2, 2, 8)),
        _dataset().select([1, 0, 2]),
    ]
    assert len({own, *(d.fingerprint() for d in others)}) == 5


def test_a_data_set_cannot_be_changed():
    with pytest.raises(AttributeError):
        _dataset().name = "other"

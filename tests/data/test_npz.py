"""NumPy archives: both layouts, no pickles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import advreg
from advreg.errors import DataError

X = np.random.default_rng(0).integers(0, 256, (40, 3, 5, 6), dtype=np.uint8)
Y = np.arange(40, dtype=np.uint8) % 4


def _save(tmp_path, **arrays):
    np.savez(tmp_path / "d.npz", **arrays)
    return f"npz:{tmp_path / 'd.npz'}"


@pytest.mark.parametrize("x", [X, X.transpose(0, 2, 3, 1)], ids=["NCHW", "NHWC"])
def test_both_layouts_give_the_same_data(tmp_path, x):
    name = _save(tmp_path, x=x, y=Y, x_test=x[:7], y_test=Y[:7])
    train, test = advreg.load_data(name)
    assert torch.equal(train.images, torch.from_numpy(X))
    assert torch.equal(train.labels, torch.from_numpy(Y).long())
    assert torch.equal(test.images, train.images[:7])
    assert (train.split, test.split, train.name) == ("train", "test", "npz:d")


def test_greyscale_needs_no_channel_axis(tmp_path):
    train, _ = advreg.load_data(_save(tmp_path, x=X[:, 0], y=Y))
    assert train.images.shape[1:] == (1, 5, 6)


def test_without_a_test_part_a_fixed_fifth_is_held_out(tmp_path):
    name = _save(tmp_path, x=X, y=Y)
    train, test = advreg.load_data(name)
    again, _ = advreg.load_data(name)
    assert train.fingerprint() == again.fingerprint()
    assert len(train) + len(test) == 40
    rows = {tuple(image.flatten().tolist()) for image in torch.cat([train.images, test.images])}
    assert len(rows) == 40  # nobody is in both parts
    assert 2 <= len(test) <= 16


def test_class_names_travel_and_both_parts_have_the_same_classes(tmp_path):
    name = _save(tmp_path, x=X, y=Y, x_test=X[:2], y_test=Y[:2], classes=np.array(["a", "b", "c", "d"]))
    assert advreg.load_data(name)[1].classes == ("a", "b", "c", "d")
    name = _save(tmp_path, x=X, y=Y, x_test=X[:2], y_test=Y[:2])
    assert len(advreg.load_data(name)[1].classes) == 4


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "no array 'y', found"),
        ({"x": X, "y": Y, "x_test": X}, "no array 'y_test'"),
        ({"x": X.astype(int), "y": Y}, r"x is int64 \(40, 3, 5, 6\); x must be floats"),
        ({"x": X[..., 0, 0], "y": Y}, r"shape \(40, 3\)"),
        ({"x": X[:, [0, 0, 0, 0, 0]], "y": Y}, r"shape \(40, 5, 5, 6\)"),
        ({"x": X, "y": Y / 2}, "y is float64"),
        ({"x": X, "y": Y[:, None]}, r"y is uint8 .* --task pixels, or \[task\] in run\.toml"),
        (
            {"x": np.where(np.arange(40)[:, None] == 37, np.nan, 0.5), "y": Y},
            "x holds NaN or infinity, first in row 37",
        ),
        ({"x": X, "y": Y.astype(int) - 1}, "label -1 of example"),
        ({"x": X[:0], "y": Y[:0], "x_test": X, "y_test": Y}, "empty"),
        ({"x": X, "y": Y[:-1], "x_test": X, "y_test": Y}, "40 images but 39 labels"),
        ({"x": X, "y": np.array([{}] * 40)}, "pickled objects, which are never read"),
        ({"x": X, "y": Y, "classes": np.array(["a"])}, r"outside 0\.\.0"),
    ],
)
def test_bad_arrays_are_rejected_in_one_line(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        advreg.load_data(_save(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 3, 100, -30])
def test_a_truncated_file_is_rejected(tmp_path, keep):
    name = _save(tmp_path, x=X, y=Y)
    path = tmp_path / "d.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"d\.npz: truncated, damaged"):
        advreg.load_data(name)


def test_a_single_array_and_an_absent_file_are_rejected(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(DataError, match="single array"):
        advreg.load_data(f"npz:{tmp_path / 'x.npy'}")
    with pytest.raises(DataError, match="no file"):
        advreg.load_data(f"npz:{tmp_path / 'absent.npz'}")

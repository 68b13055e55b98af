"""The embedded data set, its likes, and the IDX files that they come in."""

from __future__ import annotations

import gzip
import hashlib
import shutil

import pytest
import torch

import advreg
from advreg.data import fashion_mnist
from advreg.data.idx_format import FILES, read_idx
from advreg.errors import DataError


def _idx(path, shape, body, kind=8):
    sizes = b"".join(n.to_bytes(4, "big") for n in shape)
    data = bytes([0, 0, kind, len(shape)]) + sizes + body
    path.write_bytes(gzip.compress(data))
    return data


def test_mnist_is_complete():
    train, test = advreg.load_data("mnist")
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    # published: how often each digit occurs in the test set
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # published: mean and standard deviation of the training pixels
    x = train.images.double() / 255
    assert float(x.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(x.std()) == pytest.approx(0.3081, abs=5e-5)


def test_mnist_is_read_once_a_process():
    assert advreg.load_data("mnist")[0] is advreg.load_data("mnist")[0]


def test_fashion_mnist_is_found_in_the_users_folder(shared, monkeypatch):
    monkeypatch.setenv("ADVREG_DATA", str(shared / "data"))
    train, test = advreg.load_data("fashion-mnist")
    assert test.labels.bincount().tolist() == [1000] * 10
    assert len(train) == 60_000
    assert train.classes[9] == "Ankle boot"


def test_fashion_mnist_downloads_what_is_missing(shared, monkeypatch, tmp_path):
    source = shared / "data" / "fashion-mnist"
    monkeypatch.delenv("ADVREG_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("advreg.data.download._SYSTEM", tmp_path / "none")
    monkeypatch.setattr(fashion_mnist, "_URL", source.as_uri() + "/")
    cache = tmp_path / "advreg" / "fashion-mnist"
    cache.mkdir(parents=True)
    file = FILES["train", "images"]
    shutil.copy(source / file, cache / file)
    blocks = []
    train, _ = fashion_mnist.fashion_mnist(lambda done, total: blocks.append((done, total)))
    assert len(train) == 60_000
    assert blocks[-1][0] == blocks[-1][1]
    assert sorted(p.name for p in cache.iterdir()) == sorted(FILES.values())
    fetched = sum((source / other).stat().st_size for other in FILES.values() if other != file)
    assert sum(done for done, total in blocks if done == total) == fetched  # the file that was there stayed


def test_idx_round_trip(tmp_path):
    data = _idx(tmp_path / "a.gz", (2, 3), bytes(range(6)))
    expected = torch.arange(6).view(2, 3)
    assert torch.equal(read_idx(tmp_path / "a.gz", hashlib.sha256(data).hexdigest()).long(), expected)


@pytest.mark.parametrize("keep", [0, 1, 10, 25, -8, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    _idx(tmp_path / "a.gz", (10, 3), bytes(range(30)))
    whole = (tmp_path / "a.gz").read_bytes()
    (tmp_path / "a.gz").write_bytes(whole[:keep])
    with pytest.raises(DataError, match=r"a\.gz: .*fetch it again") as caught:
        read_idx(tmp_path / "a.gz", "0" * 64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "body", "kind", "message"),
    [
        ((2, 3), bytes(5), 8, r"5 bytes where \(2, 3\) needs 6"),
        ((2, 3), bytes(7), 8, r"7 bytes where \(2, 3\) needs 6"),
        ((2, 3), bytes(24), 13, "not an IDX file of unsigned bytes"),
    ],
)
def test_a_file_with_a_wrong_header_is_rejected(tmp_path, shape, body, kind, message):
    _idx(tmp_path / "a.gz", shape, body, kind)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "a.gz")


def test_a_changed_file_and_an_absent_one_are_rejected(tmp_path):
    _idx(tmp_path / "a.gz", (2,), b"ab")
    with pytest.raises(DataError, match="expected 0000"):
        read_idx(tmp_path / "a.gz", "0" * 64)
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "b.gz")

"""A download gets its name only when it is whole and right; nothing is left behind otherwise."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
import torch

from advreg.data import cifar10
from advreg.data.download import download, find
from advreg.errors import DataError


def _refuse(path):
    raise DataError(f"{path.name} is wrong")


@pytest.mark.parametrize("there", [True, False])
def test_a_download_that_fails_leaves_the_folder_as_it_was(tmp_path, there):
    source = tmp_path / "source"
    folder = tmp_path / "cache" / "toy"
    if there:
        source.write_bytes(b"not the data")
    message = "is not the file it should be" if there else "cannot download"
    with pytest.raises(DataError, match=rf"{message}.*put data.bin into \$ADVREG_DATA/toy/"):
        download(source.as_uri(), folder / "data.bin", _refuse)
    assert list(folder.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(tmp_path):
    (tmp_path / "source").write_bytes(bytes(1 << 19))

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download((tmp_path / "source").as_uri(), tmp_path / "toy" / "data.bin", print, stop)
    assert list((tmp_path / "toy").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "source").write_bytes(b"data")
    (tmp_path / "toy").write_bytes(b"a file where a folder should be")
    with pytest.raises(DataError, match="cannot download") as caught:
        download((tmp_path / "source").as_uri(), tmp_path / "toy" / "data.bin", print)
    assert "\n" not in str(caught.value)


def test_find_prefers_the_users_folder_and_wants_all_files(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVREG_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("advreg.data.download._SYSTEM", tmp_path / "system")
    assert find("toy", ["a", "b"]) is None
    folders = [tmp_path / "cache" / "advreg" / "toy", tmp_path / "system" / "toy", tmp_path / "own" / "toy"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "a").touch()
        assert find("toy", ["a", "b"]) in (None, *folders[: folders.index(folder)])
        (folder / "b").touch()
        assert find("toy", ["a", "b"]) == folder


def _archive(path, rows=2, leave_out=None, cut=0):
    """Write an archive of CIFAR-10's form whose image k is k everywhere in red, 100 + k in green, 200 in blue."""
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
    with tarfile.open(path, "w:gz") as archive:
        for batch, name in enumerate(names):
            ids = range(batch * rows, (batch + 1) * rows)
            planes = (bytes([k % 10]) + bytes([k]) * 1024 + bytes([100 + k]) * 1024 + bytes([200]) * 1024 for k in ids)
            body = b"".join(planes)
            body = body[: len(body) - cut] if name == "test_batch.bin" else body
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(body)
            if name != leave_out:
                archive.addfile(info, io.BytesIO(body))
    return path


def test_cifar10_records_become_planes(tmp_path):
    train, test = cifar10.read_archive(_archive(tmp_path / "c.tar.gz"))
    assert (len(train), len(test)) == (10, 2)
    assert train.images.shape == (10, 3, 32, 32)
    assert torch.equal(train.images[7, :, 3, 4].long(), torch.tensor([7, 107, 200]))
    assert train.labels.tolist() == list(range(10))
    assert test.labels.tolist() == [0, 1]
    assert test.classes[test.labels[1]] == "automobile"


@pytest.mark.parametrize("damage", [{"leave_out": "data_batch_3.bin"}, {"cut": 5}, {"leave_out": "test_batch.bin"}])
def test_an_incomplete_cifar10_names_the_batch(tmp_path, damage):
    name = damage.get("leave_out", "test_batch.bin")
    with pytest.raises(DataError, match=f"{name} is missing or incomplete"):
        cifar10.read_archive(_archive(tmp_path / "c.tar.gz", **damage))


def test_a_truncated_or_changed_archive_is_rejected(tmp_path):
    path = _archive(tmp_path / "c.tar.gz", rows=10)
    cifar10.check_archive(path, hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(DataError, match="expected c4a38c50"):
        cifar10.check_archive(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="truncated or damaged archive"):
        cifar10.read_archive(path)


def test_cifar10_found_but_wrong_is_rejected_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVREG_DATA", str(tmp_path))
    (tmp_path / "cifar10").mkdir()
    path = _archive(tmp_path / "cifar10" / "cifar-10-binary.tar.gz")
    with pytest.raises(DataError, match="expected c4a38c50"):
        cifar10.cifar10()
    assert path.is_file()


def test_cifar10_is_downloaded_with_progress_where_it_is_nowhere(tmp_path, monkeypatch):
    source = _archive(tmp_path / "source.tar.gz")
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.delenv("ADVREG_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("advreg.data.download._SYSTEM", tmp_path / "none")
    monkeypatch.setattr(cifar10, "_URL", source.as_uri())
    with pytest.raises(DataError, match="is not the file it should be"):
        cifar10.cifar10()
    monkeypatch.setattr(cifar10.check_archive, "__defaults__", (sha256,))
    blocks = []
    train, _ = cifar10.cifar10(lambda done, total: blocks.append((done, total)))
    assert len(train) == 10
    assert blocks[-1] == (source.stat().st_size, source.stat().st_size)

"""Names: the known ones, the user's own, and what is said about all others."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import advreg
from advreg.errors import DataError, MissingExtraError

FACTORIES = """
import torch
from advreg.data import Dataset

def pairs():
    return (torch.rand(4, 1, 3, 3), torch.arange(4)), (torch.rand(2, 1, 3, 3), torch.tensor([0, 1]))

def sets():
    x, y = pairs()[0]
    return Dataset.from_tensors(x, y, name="own", split="train"), Dataset.from_tensors(x, y, name="own")

def loud():
    return (255 * torch.rand(4, 1, 3, 3), torch.arange(4)), (torch.rand(2, 1, 3, 3), torch.tensor([0, 1]))

def one():
    return pairs()[0]

def nothing():
    pass

def fails():
    raise RuntimeError("no disk\\nmore about it")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the user's module in it, which is the current one."""
    (tmp_path / "owndata.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("owndata", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "Did you mean 'mnist'"),
        ("fashon-mnist", "Did you mean 'fashion-mnist'"),
        ("foldr:/tmp/x", "Did you mean 'folder:'"),
        ("npz:", "unknown data 'npz:'"),
        ("", "Allowed: mnist fashion-mnist cifar10"),
        ("cifar10.npz", "unknown data"),
        ("lones.csv?label=paid", "There is no file 'lones.csv'. Did you mean 'loans.csv'"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(here, name, message):
    (here / "loans.csv").touch()
    with pytest.raises(DataError, match=message) as caught:
        advreg.load_data(name)
    assert "\n" not in str(caught.value)


def test_a_factory_in_the_current_folder_gives_sets_or_pairs(here):
    train, test = advreg.load_data("owndata:pairs")
    assert len(train.classes) == len(test.classes) == 4
    assert (train.split, test.split) == ("train", "test")
    assert advreg.load_data("owndata:sets")[0].name == "own"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owndata:pair", r"no function 'pair'. Did you mean 'pairs'"),
        ("absentmodule:pairs", "cannot import absentmodule"),
        ("owndata:loud", "train part: pixels reach .* divide them by 255"),
        ("owndata:one", "the train part is Tensor; give a Dataset or a pair"),
        ("owndata:nothing", r"returned NoneType; it must return \(train, test\)"),
        ("owndata:fails", "the factory failed: RuntimeError: no disk$"),
    ],
)
def test_a_factory_that_does_not_work_is_one_line(here, name, message):
    with pytest.raises(DataError, match=message):
        advreg.load_data(name)


@pytest.mark.parametrize(("name", "module"), [("torchvision:CIFAR100", "torchvision"), ("hf:x/y", "datasets")])
def test_a_missing_library_names_the_command(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=f"{module} is not installed; pip install") as caught:
        advreg.load_data(name)
    assert "\n" not in str(caught.value)


def _photo(k, mode):
    return Image.fromarray(np.full((4, 5, 3), k, np.uint8)).convert(mode)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_torchvision_data_become_bytes(monkeypatch, mode, channels):
    class Toy(list):
        classes = ("a", "b")

        def __init__(self, root, train, download):
            assert download
            super().__init__((_photo(k, mode), k % 2) for k in range(4 if train else 2))

    catalogue = SimpleNamespace(Toy=Toy, __all__=("Toy",))
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=catalogue))
    train, test = advreg.load_data("torchvision:Toy")
    assert train.images.shape == (4, channels, 4, 5)
    assert test.images[:, 0, 0, 0].tolist() == [0, 1]
    assert advreg.load_data("torchvision:Toy?size=2")[0].images.shape == (4, channels, 2, 2)
    with pytest.raises(DataError, match="Did you mean 'Toy'"):
        advreg.load_data("torchvision:Toi")


def test_hub_data_find_their_columns_and_their_held_out_part(monkeypatch):
    kinds = {"Image": type("Image", (), {}), "ClassLabel": type("ClassLabel", (), {"names": ["a", "b"]})}

    class Split(list):
        features = {"picture": kinds["Image"](), "fine": kinds["ClassLabel"]()}  # noqa: RUF012

    rows = Split({"picture": _photo(k, "RGB"), "fine": k % 2} for k in range(3))
    made = {"train": rows, "validation": Split(rows[:1])}
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda name: made))
    train, test = advreg.load_data("hf:some/pets")
    assert train.labels.tolist() == [0, 1, 0]
    assert torch.equal(test.images, train.images[:1])
    made.pop("validation")
    with pytest.raises(DataError, match="needs train, and test or validation"):
        advreg.load_data("hf:some/pets")

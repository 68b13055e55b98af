"""Data sets that other libraries know, or the user's own code makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from advreg.data.columns import as_table, with_class_names
from advreg.data.dataset import Dataset
from advreg.data.download import cache_folder
from advreg.data.images import GREY, RGB, Size, pixels
from advreg.data.table import UNIT, Box, Table
from advreg.data.table_files import split_table
from advreg.errors import DataError, did_you_mean
from advreg.plugins import call_factory, first_line, import_extra

Pair = tuple[Dataset, Dataset]
AnyPair = Pair | tuple[Table, Table]


def torchvision(name: str, size: Size | None = None) -> Pair:
    """Return a classification data set of torchvision, such as ``CIFAR100``; it downloads what it lacks.

    Args:
        name: name of the data set's class.
        size: side of the square images; None keeps their size.

    Returns:
        The training set and the test set.

    Raises:
        DataError: an unknown name, or a data set that cannot be loaded.
        MissingExtraError: torchvision is not installed.
    """
    catalogue = import_extra("torchvision", "advreg[vision]").datasets
    if name not in catalogue.__all__:
        raise DataError(f"torchvision has no data set {name!r}.{did_you_mean(name, catalogue.__all__)}")
    root = str(cache_folder() / "torchvision")
    try:
        parts = [getattr(catalogue, name)(root, train=train, download=True) for train in (True, False)]
    except Exception as cause:
        raise DataError(f"torchvision:{name} cannot be loaded: {first_line(cause)}") from cause
    examples = [[parts[k][row] for row in range(len(parts[k]))] for k in (0, 1)]
    classes = getattr(parts[0], "classes", None)
    return _pair(examples, classes, f"torchvision:{name}", size)


def hugging_face(
    name: str, size: Size | None = None, label: str = "", box: Box | None = None, drop: str = "", scale: str = ""
) -> AnyPair:
    """Return a data set of the Hugging Face hub, or a folder of its format, with splits train, and test or validation.

    Without a label column it is a data set of images, with one it is a table.

    Args:
        name: name of the data set on the hub.
        size: side of the square images; None keeps their size.
        label: name of the label column of a table; empty for images.
        box: lowest and highest valid value of a table's features.
        drop: names of a table's columns to leave out, separated by commas.
        scale: ``std`` or ``range``, units of a table's features.

    Returns:
        The training set and the test set.

    Raises:
        DataError: a data set that cannot be loaded, without those splits, or without columns of images and labels.
        MissingExtraError: datasets is not installed.
    """
    library = import_extra("datasets", "datasets")
    try:
        splits = library.load_dataset(name)
    except Exception as cause:
        raise DataError(f"hf:{name} cannot be loaded: {first_line(cause)}") from cause
    held_out = next((key for key in ("test", "validation") if key in splits), None)
    if held_out is None or "train" not in splits:
        raise DataError(f"hf:{name} has splits {sorted(splits)}; it needs train, and test or validation")
    if label:
        return _hugging_face_table(f"hf:{name}", [splits["train"], splits[held_out]], label, box, drop, scale)
    features = splits["train"].features
    image, number = _column(name, features, "Image"), _column(name, features, "ClassLabel")
    examples = [[(row[image], row[number]) for row in splits[key]] for key in ("train", held_out)]
    return _pair(examples, features[number].names, f"hf:{name}", size)


def _hugging_face_table(
    name: str, parts: Sequence[Any], label: str, box: Box | None, drop: str, scale: str
) -> tuple[Table, Table]:
    library = import_extra("pyarrow", "datasets")
    left = [part.remove_columns([each for each in drop.split(",") if each]) for part in parts]
    whole = library.concat_tables([part.with_format("arrow")[:] for part in left])
    held = [row >= len(left[0]) for row in range(len(whole))]
    return split_table(with_class_names(as_table(whole, label)), held, name, box, scale)


def _column(name: str, features: dict[str, Any], kind: str) -> str:
    found = [key for key, feature in features.items() if type(feature).__name__ == kind]
    if not found:
        raise DataError(
            f"hf:{name} has no column of type {kind}, only {sorted(features)}; it is not for classification"
        )
    return found[0]


def _pair(examples: list[list[tuple[Any, int]]], classes: Sequence[str] | None, name: str, size: Size | None) -> Pair:
    mode = GREY if examples[0][0][0].mode in ("1", "L") else RGB
    train, test = (
        Dataset.from_tensors(
            _stack([pixels(image, mode, size) for image, _ in part], name),
            torch.tensor([int(label) for _, label in part]),
            classes,
            name,
            split,
        )
        for part, split in zip(examples, ("train", "test"), strict=True)
    )
    return train, test


def _stack(planes: list[Tensor], name: str) -> Tensor:
    if any(p.shape != planes[0].shape for p in planes):
        raise DataError(f"{name} has images of different sizes; give one size, e.g. {name}?size=224")
    return torch.stack(planes)


def factory(name: str) -> AnyPair:
    """Call ``pkg.module:factory``, which returns two data sets or two pairs ``(x, y)``: train, test.

    Pairs of images in uint8, or of floats in [0, 1], become 8-bit images; floats of other shapes, and images with negative
    values, keep their values.

    Args:
        name: ``pkg.module:factory``, called without arguments.

    Returns:
        The training set and the test set.

    Raises:
        DataError: the factory fails, or returns something else.
    """
    made = call_factory(name, DataError)
    if not (isinstance(made, tuple | list) and len(made) == 2):
        raise DataError(f"{name} returned {type(made).__name__}; it must return (train, test)")
    classes = 1 + max((int(part[1].max()) for part in made if _is_pair(part) and part[1].numel()), default=0)
    train, test = (_as_dataset(name, part, classes, split) for part, split in zip(made, ("train", "test"), strict=True))
    if type(train) is not type(test):
        raise DataError(f"{name} returned {train!r} and {test!r}; give both parts in one form")
    return train, test  # type: ignore[return-value]  # of one type


def _is_pair(part: object) -> bool:
    return isinstance(part, tuple | list) and len(part) == 2 and all(isinstance(t, Tensor) for t in part)


def _is_table(x: Tensor) -> bool:
    return x.is_floating_point() and (x.dim() != 4 or float(x.min()) < UNIT[0])


def _as_dataset(name: str, part: Any, classes: int, split: str) -> Dataset | Table:
    if isinstance(part, Dataset | Table):
        return part
    if not _is_pair(part):
        raise DataError(
            f"{name}: the {split} part is {type(part).__name__}; give a Dataset or a pair (x, y) of tensors"
        )
    try:
        if _is_table(part[0]):
            names = tuple(str(k) for k in range(classes))
            return Table(part[0].float(), part[1].long(), names, name, split)
        return Dataset.from_tensors(part[0], part[1], classes, name, split)
    except DataError as cause:
        raise DataError(f"{name}, {split} part: {cause}") from cause

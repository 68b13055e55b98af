"""A folder of images with one subfolder for each class."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from advreg.data.dataset import Dataset
from advreg.data.hash_split import digest, is_test
from advreg.data.images import GREY, RGB, SUFFIXES, Size, all_grey, read_images, sides
from advreg.data.streaming import StreamingDataset
from advreg.errors import DataError, did_you_mean_path

Listing = list[tuple[Path, str]]  # an image and the name of its class


def folder(
    path: str, size: Size | None = None, mode: str | None = None, broken: str = "refuse", bits: int = 16
) -> tuple[Dataset, Dataset]:
    """Read images from ``path/train/<class>`` and ``path/test/<class>`` (or ``val``), or ``path/<class>``.

    Without ``train`` and ``test``, a fifth is held out, chosen by a hash of each image's relative path. Images come in the
    order of that hash, so that the first n of them are a sample of all classes.

    Args:
        path: the folder.
        size: side of the square images, or height and width; where not given, all images must have one size already.
        mode: ``"grey"`` or ``"rgb"``; where not given, grey if all images are.
        broken: ``"refuse"`` or ``"skip"`` an image that cannot be read, with a warning that names it.
        bits: bits that deep grey values use: 16, or 12 for many medical images.

    Returns:
        The training set and the test set.

    Raises:
        DataError: no such folder, no images, a broken image, ``train`` with neither ``test`` nor ``val`` beside it, fewer than
            two classes, or classes that the training part does not have.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for place in ("train/a", "train/b", "test/a", "test/b"):
        ...     (root / place).mkdir(parents=True)
        ...     Image.new("L", (8, 8)).save(root / place / "0.png")
        >>> train, test = folder(str(root))
        >>> len(train), len(test), train.classes
        (2, 2, ('a', 'b'))
    """
    root = Path(path).expanduser()
    _check_options(size, mode, broken, bits)
    train, test = _split(root)
    if broken == "skip":
        train, test = ([item for item in part if _is_readable(item[0], size)] for part in (train, test))
    classes = _classes(root, train, test)
    mode = mode or (GREY if all_grey(image for image, _ in train + test) else RGB)
    name = f"folder:{root.name}"
    options = (mode, size, bits)
    return _dataset(train, classes, options, (name, "train")), _dataset(test, classes, options, (name, "test"))


def streamed_folder(
    path: str, size: Size | None = None, mode: str | None = None, broken: str = "refuse", bits: int = 16
) -> tuple[StreamingDataset, StreamingDataset]:
    """Return the images of `folder` as data sets that are read batch by batch; the size is required, colour the default.

    Args:
        path: the folder.
        size: side of the square images; required.
        mode: ``"grey"`` or ``"rgb"``, the default.
        broken: ``"refuse"`` or ``"skip"`` an image that cannot be read, with a warning that names it.
        bits: bits that deep grey values use: 16, or 12 for many medical images.

    Returns:
        The training set and the test set.

    Raises:
        DataError: no size, no such folder, no images, ``train`` with neither ``test`` nor ``val`` beside it, fewer than two
            classes, or classes that the training part does not have; a broken image raises only when it is read.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for place in ("train/a", "train/b", "test/a", "test/b"):
        ...     (root / place).mkdir(parents=True)
        ...     Image.new("L", (8, 8)).save(root / place / "0.png")
        >>> train, test = streamed_folder(str(root), size=4)
        >>> train.tensors()[0].shape
        torch.Size([2, 3, 4, 4])
    """
    root = Path(path).expanduser()
    _check_options(size, mode, broken, bits)
    if size is None:
        raise DataError(f"{root}: images that are streamed must come in one size; give it, e.g. folder:{path}?size=224")
    parts = _split(root)
    classes = _classes(root, *parts)

    def made(listing: Listing, split: str) -> StreamingDataset:
        labels, paths = _numbers(listing, classes), [image for image, _ in listing]
        return StreamingDataset(
            paths, labels, tuple(classes), f"folder:{root.name}", split, mode or RGB, size, broken == "skip", bits
        )

    return made(parts[0], "train"), made(parts[1], "test")


def image_files(path: str) -> dict[str, list[Path]]:
    """Return the images of each class: those in ``path/train`` where it exists, else in ``path``.

    Args:
        path: the folder.

    Returns:
        Files by class, each in its order.

    Raises:
        DataError: no such folder, or no images.
    """
    root = Path(path).expanduser()
    _split(root)  # raises where parts do not fit each other
    found: dict[str, list[Path]] = {}
    for image, label in _listing(root / "train" if (root / "train").is_dir() else root):
        found.setdefault(label, []).append(image)
    return found


def _classes(root: Path, train: Listing, test: Listing) -> list[str]:
    classes = sorted({label for _, label in train})
    unknown = sorted({label for _, label in test} - set(classes))
    if unknown:
        raise DataError(f"{root}: class {unknown[0]!r} has test images but no training images")
    if len(classes) < 2:
        raise DataError(
            f"{root}: {classes[0]!r} is the only class with training images; give two or more, one folder each"
        )
    return classes


def _check_options(size: Size | None, mode: str | None, broken: str, bits: int) -> None:
    if size is not None and min(sides(size)) < 1:
        raise DataError(f"size={size} is not a side in pixels; give 1 or more")
    if not 9 <= bits <= 16:
        raise DataError(f"bits={bits}; deep grey images use 9 to 16, such as 12")
    if mode not in (None, GREY, RGB):
        raise DataError(f"mode={mode} is unknown; allowed are {GREY} and {RGB}")
    if broken not in ("refuse", "skip"):
        raise DataError(f"broken={broken} is unknown; allowed are refuse and skip")


def _is_readable(image: Path, size: Size | None) -> bool:
    try:
        read_images([image], RGB, size)
    except DataError as error:
        warnings.warn(f"{error}; it is skipped", UserWarning, stacklevel=4)
        return False
    return True


def _split(root: Path) -> tuple[Listing, Listing]:
    if not root.is_dir():
        raise DataError(
            f"no folder {root}.{did_you_mean_path(root)} Give folder:PATH with one subfolder for each class"
        )
    tests = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if (root / "train").is_dir() and tests:
        return _listing(root / "train"), _listing(tests[0])
    if _folders(root / "train"):
        beside = ", ".join(f"{folder.name}/" for folder in _folders(root) if folder.name != "train") or "nothing"
        raise DataError(
            f"{root}: train/ holds classes, and beside it is {beside}; allowed: test/ or val/ beside train/, "
            f"or the classes directly in {root.name}/"
        )
    images = _listing(root)
    train: Listing = []
    test: Listing = []
    for image, label in images:
        part = test if is_test(image.relative_to(root).as_posix()) else train
        part.append((image, label))
    if not (train and test):
        raise DataError(f"{root}: {len(images)} images are too few to split; make subfolders train/ and test/")
    return train, test


def _listing(root: Path) -> Listing:
    found = [(image, folder.name) for folder in _folders(root) for image in _images(folder)]
    if not found:
        raise DataError(f"{root}: no images in its subfolders; put images at {root}/<class>/<image>.png")
    # by hash, not by class, so that the first n examples contain every class
    return sorted(found, key=lambda item: digest(item[0].relative_to(root).as_posix()))


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")) if root.is_dir() else []


def _images(root: Path) -> list[Path]:
    files = (p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in files if p.is_file())


def _dataset(
    listing: Listing, classes: list[str], options: tuple[str, Size | None, int], called: tuple[str, str]
) -> Dataset:
    images = read_images([image for image, _ in listing], *options)
    return Dataset(images, _numbers(listing, classes), tuple(classes), *called)


def _numbers(listing: Listing, classes: list[str]) -> Tensor:
    number = {label: k for k, label in enumerate(classes)}
    return torch.tensor([number[label] for _, label in listing])

"""Segmentation in a folder: ``images/`` and, of the same names, ``masks/`` with a class number in each pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from advreg.data.hash_split import is_test
from advreg.data.images import GREY, RGB, SUFFIXES, Size, all_grey, open_image, read_images, sides
from advreg.errors import DataError, did_you_mean_path

Pair = tuple[Tensor, Tensor]
_INDEXED = frozenset({"1", "L", "P", "I", "I;16"})


def mask_folder(path: str, size: Size | None = None, mode: str | None = None) -> tuple[Pair, Pair]:
    """Read images and masks from ``path/images`` and ``path/masks``, or from ``path/train/...`` and ``path/test/...``.

    Without ``train`` and ``test``, a fixed fifth is held out, chosen by a hash of each image's name. A mask is a grey or
    palette image; its pixel values are the classes. Resized masks take the nearest pixel.

    Args:
        path: the folder.
        size: side of the square images, or height and width; where not given, all images must have one size already.
        mode: ``"grey"`` or ``"rgb"``; where not given, grey if all images are.

    Returns:
        Images uint8 ``(N, C, H, W)`` and masks int64 ``(N, H, W)`` of training and test set.

    Raises:
        DataError: no such folder, an image without a mask, a mask of colours, or sizes that differ.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for place, value in (("train/images", 90), ("train/masks", 1), ("test/images", 90), ("test/masks", 0)):
        ...     (root / place).mkdir(parents=True)
        ...     Image.new("L", (6, 4), value).save(root / place / "0.png")
        >>> (x, y), _ = mask_folder(str(root))
        >>> x.shape, y.shape, int(y.max())
        (torch.Size([1, 1, 4, 6]), torch.Size([1, 4, 6]), 1)
    """
    root = Path(path).expanduser()
    parts = _split(root)
    mode = mode or (GREY if all_grey(image for part in parts for image, _ in part) else RGB)
    train, test = (_read(part, mode, size) for part in parts)
    return train, test


def _split(root: Path) -> list[list[tuple[Path, Path]]]:
    """Return the images of training and test set, each with its mask."""
    if not root.is_dir():
        raise DataError(f"no folder {root}.{did_you_mean_path(root)} Give folder:PATH with images/ and masks/")
    held = next((root / name for name in ("test", "val") if (root / name / "images").is_dir()), None)
    if held is not None:
        return [_with_masks(root / "train"), _with_masks(held)]
    whole = _with_masks(root)
    parts = [[pair for pair in whole if is_test(pair[0].name) == test] for test in (False, True)]
    if not all(parts):
        raise DataError(f"{root}: {len(whole)} images are too few to split; make subfolders train/ and test/")
    return parts


def _with_masks(root: Path) -> list[tuple[Path, Path]]:
    images, masks = (_files(root / name) for name in ("images", "masks"))
    if not images:
        raise DataError(f"{root}: no images; a segmentation has {root}/images/NAME.png and {root}/masks/NAME.png")
    alone = next((image for stem, image in images.items() if stem not in masks), None)
    if alone is not None:
        raise DataError(f"{alone} has no mask; put it at {root}/masks/{alone.stem}.png, or leave the image out")
    return [(image, masks[stem]) for stem, image in images.items()]


def _files(folder: Path) -> dict[str, Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return {file.stem: file for file in found if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")}


def _read(pairs: list[tuple[Path, Path]], mode: str, size: Size | None) -> Pair:
    images = read_images([image for image, _ in pairs], mode, size)
    masks = [_mask(mask, size) for _, mask in pairs]
    odd = next((k for k, mask in enumerate(masks) if mask.shape != images.shape[2:]), None)
    if odd is not None:
        height, width = masks[odd].shape
        raise DataError(
            f"{pairs[odd][1]} is {width}x{height}, its image is not; save both in one size, or give ?size=64"
        )
    return images, torch.stack(masks)


def _mask(file: Path, size: Size | None) -> Tensor:
    """Return the classes of a mask, ``(H, W)``."""
    with open_image(file) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in _INDEXED:
            raise DataError(f"{file} has colours ({upright.mode}); save class numbers as a grey or palette image")
        if size is not None:
            height, width = sides(size)
            upright = ImageOps.fit(upright, (width, height), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(upright).astype(np.int64))

"""Read image files as uint8 tensors of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from advreg.errors import DataError

GREY, RGB = "grey", "rgb"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L"})
_READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # Pillow's errors for broken files


def pixels(image: Image.Image, mode: str, size: int | None) -> Tensor:
    """Return an image as uint8 ``(C, H, W)``.

    Args:
        image: of any Pillow mode; 16-bit values are scaled to 8 bits.
        mode: ``"grey"`` for one channel, ``"rgb"`` for three.
        size: side of the square that is cut out of the middle after resizing; None keeps the size.

    Returns:
        uint8 ``(1, H, W)`` or ``(3, H, W)``.

    Example:
        >>> pixels(Image.new("RGB", (40, 20), "red"), "rgb", 8)[:, 0, 0]
        tensor([255,   0,   0], dtype=torch.uint8)
    """
    upright = _to_8_bits(ImageOps.exif_transpose(image))
    if upright.mode == "P":
        upright = upright.convert("RGBA")  # a palette may hold transparency
    plain = upright.convert("L" if mode == GREY else "RGB")
    if size is not None:
        plain = ImageOps.fit(plain, (size, size), Image.Resampling.BICUBIC)
    planes = np.array(plain, dtype=np.uint8)
    return torch.from_numpy(planes[None] if planes.ndim == 2 else planes.transpose(2, 0, 1).copy())


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode not in _DEEP_MODES:
        return image
    deep = np.asarray(image).astype(np.int64).clip(0, 65535)
    return Image.fromarray(((deep + 128) // 257).astype(np.uint8))


def read_images(paths: Iterable[Path], mode: str, size: int | None) -> Tensor:
    """Read image files into one uint8 tensor ``(N, C, H, W)``.

    Args:
        paths: the files.
        mode: ``"grey"`` for one channel, ``"rgb"`` for three.
        size: side of the square that is cut out of the middle after resizing; None keeps the size.

    Returns:
        uint8 ``(N, C, H, W)``.

    Raises:
        DataError: a file is broken (it is named), or the sizes differ and no ``size`` is given.
    """
    planes: list[Tensor] = []
    for path in paths:
        with open_image(path) as image:
            planes.append(pixels(image, mode, size))
        if planes[-1].shape != planes[0].shape:
            height, width = planes[-1].shape[1:]
            raise DataError(f"{path} is {width}x{height}, images before it are not; give one size, e.g. ?size=224")
    return torch.stack(planes)


def all_grey(paths: Iterable[Path]) -> bool:
    """Return whether every image is greyscale, from the headers alone.

    Args:
        paths: image files.

    Returns:
        True where all are greyscale.
    """
    for path in paths:
        with open_image(path) as image:
            if image.mode not in _GREY_MODES:
                return False
    return True


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file inside the block; errors of Pillow, also those in the block, name the file.

    Args:
        path: the file.

    Yields:
        The image.

    Raises:
        DataError: a broken file.
    """
    try:
        with Image.open(path) as image:
            yield image
    except _READ_ERRORS as cause:
        raise DataError(f"{path} is not a readable image ({cause}); repair or remove it") from cause

"""Read image files as uint8 tensors of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from advreg.errors import DataError
from advreg.runtime import total_memory

GREY, RGB = "grey", "rgb"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L"})
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # of EXIF: turned by a quarter
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L"})
_READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # Pillow's errors for broken files


Size = int | tuple[int, int]
"""Side of a square, or height and width."""


def parse_size(text: str) -> Size:
    """Return a size from ``64`` or ``48x64``, height by width.

    Args:
        text: one whole number, or two.

    Returns:
        The size.

    Raises:
        ValueError: something else.

    Example:
        >>> parse_size("64"), parse_size("48x64")
        (64, (48, 64))
    """
    height, by, width = text.partition("x")
    return (int(height), int(width)) if by else int(height)


def sides(size: Size) -> tuple[int, int]:
    """Return height and width of a size."""
    return (size, size) if isinstance(size, int) else size


def pixels(image: Image.Image, mode: str, size: Size | None, bits: int = 16) -> Tensor:
    """Return an image as uint8 ``(C, H, W)``.

    Args:
        image: of any Pillow mode; deep grey values are scaled to 8 bits.
        mode: ``"grey"`` for one channel, ``"rgb"`` for three.
        size: side of the square, or height and width, cut out of the middle after resizing; None keeps the size.
        bits: bits that deep grey values use: 16, or 12 for many medical images.

    Returns:
        uint8 ``(1, H, W)`` or ``(3, H, W)``.

    Example:
        >>> pixels(Image.new("RGB", (40, 20), "red"), "rgb", 8)[:, 0, 0]
        tensor([255,   0,   0], dtype=torch.uint8)
    """
    upright = _to_8_bits(ImageOps.exif_transpose(image), bits)
    if upright.mode == "P":
        upright = upright.convert("RGBA")  # a palette may hold transparency
    plain = upright.convert("L" if mode == GREY else "RGB")
    if size is not None:
        height, width = sides(size)
        plain = ImageOps.fit(plain, (width, height), Image.Resampling.BICUBIC)
    planes = np.array(plain, dtype=np.uint8)
    return torch.from_numpy(planes[None] if planes.ndim == 2 else planes.transpose(2, 0, 1).copy())


def _to_8_bits(image: Image.Image, bits: int) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode not in _DEEP_MODES:
        return image
    most = 2**bits - 1
    deep = np.asarray(image).astype(np.int64).clip(0, most)
    return Image.fromarray(((2 * 255 * deep + most) // (2 * most)).astype(np.uint8))


def read_images(paths: Sequence[Path], mode: str, size: Size | None, bits: int = 16) -> Tensor:
    """Read image files into one uint8 tensor ``(N, C, H, W)``.

    Args:
        paths: the files.
        mode: ``"grey"`` for one channel, ``"rgb"`` for three.
        size: side of the square, or height and width, cut out of the middle after resizing; None keeps the size.
        bits: bits that deep grey values use.

    Returns:
        uint8 ``(N, C, H, W)``.

    Raises:
        DataError: a file is broken (it is named), the sizes differ and no ``size`` is given, or the images do not fit into
            memory.
    """
    whole = torch.empty(0, dtype=torch.uint8)
    for row, path in enumerate(paths):
        with open_image(path) as image:
            planes = pixels(image, mode, size, bits)
        if not row:
            _require_memory(len(paths), planes)
            whole = torch.empty((len(paths), *planes.shape), dtype=torch.uint8)
        if planes.shape != whole.shape[1:]:
            height, width = planes.shape[1:]
            raise DataError(f"{path} is {width}x{height}, images before it are not; give one size, e.g. ?size=224")
        whole[row] = planes
    return whole


def _require_memory(count: int, planes: Tensor) -> None:
    need, most = count * planes.numel(), total_memory()
    if need > most:
        shape = "x".join(map(str, planes.shape))
        raise DataError(
            f"{count} images of {shape} need {need / 1e9:.3g} GB, this machine has {most / 1e9:.3g} GB; "
            "give a smaller ?size=, or set data.stream = true, which reads them batch by batch"
        )


def sizes_of(paths: Iterable[Path]) -> tuple[list[tuple[int, int]], int]:
    """Return the sizes that images have when upright, each once, and their channels, from the headers alone.

    Args:
        paths: image files.

    Returns:
        Width and height of each size, the first found first, and 1 where all images are greyscale, else 3.

    Raises:
        DataError: a broken file.
    """
    found: dict[tuple[int, int], None] = {}
    channels = 1
    for path in paths:
        with open_image(path) as image:
            lies = image.getexif().get(_ORIENTATION) in _LYING
            found[image.size[::-1] if lies else image.size] = None
            channels = channels if image.mode in _GREY_MODES else 3
    return list(found), channels


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

"""Decoding of uploaded images: kind by the first bytes, size checked before decompression, pickle never read."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from advreg.errors import UploadError
from advreg.plugins import first_line

Pixels = NDArray[np.float32]

_MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"\x93NUMPY": "npy"}
_TYPES = ("uint8", "float16", "float32", "float64")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "I;16B", "I;16L")


@dataclass(frozen=True)
class Limits:
    """Limits of one upload.

    Attributes:
        bytes: largest size as uploaded.
        pixels: largest height x width.
        shape: required ``(C, H, W)``; None accepts any image.
    """

    bytes: int = 4 << 20
    pixels: int = 4096 * 4096
    shape: tuple[int, int, int] | None = None


def kind_of(content: bytes) -> str:
    """Return ``png``, ``jpeg`` or ``npy`` by the first bytes; the client's content type is ignored.

    Args:
        content: the uploaded bytes.

    Raises:
        UploadError: the bytes are of another kind.
    """
    for magic, kind in _MAGIC.items():
        if content.startswith(magic):
            return kind
    raise UploadError("the upload is not a PNG, JPEG or .npy array (by its first bytes); send one of these", status=415)


def decode(content: bytes, limits: Limits) -> tuple[str, Pixels]:
    """Return the kind of an upload and its pixels ``(C, H, W)`` in [0, 1].

    Args:
        content: the uploaded bytes.
        limits: sizes and shape that are allowed.

    Raises:
        UploadError: the upload is too large before or after decompression, damaged, not an image, or of another shape.
    """
    if len(content) > limits.bytes:
        raise UploadError(f"the upload has {len(content)} bytes; allowed: {limits.bytes}", status=413)
    kind = kind_of(content)
    pixels = _array(content, limits) if kind == "npy" else _picture(content, kind, limits)
    if limits.shape is not None and pixels.shape != limits.shape:
        raise _other_shape(pixels.shape, limits.shape)
    return kind, pixels


def to_png(pixels: Pixels) -> bytes:
    """Return pixels ``(C, H, W)`` in [0, 1] as a new PNG: the client's own file never reaches a browser."""
    levels = np.rint(pixels * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def to_npy(pixels: NDArray[Any]) -> bytes:
    """Return an array as the bytes of a ``.npy`` file."""
    file = io.BytesIO()
    np.save(file, pixels, allow_pickle=False)
    return file.getvalue()


def _picture(content: bytes, kind: str, limits: Limits) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PIL only warns of decompression bombs
            with Image.open(io.BytesIO(content), formats=[kind.upper()]) as image:
                _require_header(image, limits)  # PIL has read the header alone
                return _levels(image, limits)
    except UploadError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UploadError(f"the image unpacks to too many pixels; allowed: {limits.pixels}", status=413) from error
    except Exception as error:  # a hostile file can fail anywhere in the decoder
        raise UploadError(f"the {kind} is damaged: {first_line(error)[:120]}; send it whole") from error


def _require_header(image: Image.Image, limits: Limits) -> None:
    """Compare what the header states with the limits, so that nothing is decompressed in vain."""
    _require_size(image.width * image.height, limits)
    if image.mode not in _MODES:
        raise UploadError(f"the image has the mode {image.mode}; allowed: grey, palette, RGB and CMYK, 1 to 16 bits")
    if limits.shape is not None and (image.height, image.width) != limits.shape[1:]:
        raise _other_shape((len(image.getbands()), image.height, image.width), limits.shape)


def _other_shape(given: tuple[int, ...], wanted: tuple[int, ...]) -> UploadError:
    sizes = ["x".join(map(str, shape)) for shape in (given, wanted)]
    return UploadError(f"the image is {sizes[0]} (channels, height, width); the model takes {sizes[1]}")


def _levels(image: Image.Image, limits: Limits) -> Pixels:
    if image.mode.startswith("I"):  # 16 bits
        deep = np.asarray(image, dtype=np.float32)[None]
        return np.asarray(deep.clip(0, 65535) / np.float32(65535), dtype=np.float32)
    grey = limits.shape[0] == 1 if limits.shape else image.mode in ("1", "L", "LA")
    levels: Pixels = np.asarray(image.convert("L" if grey else "RGB")).astype(np.float32)
    levels /= np.float32(255)
    return levels[None] if grey else np.ascontiguousarray(levels.transpose(2, 0, 1))


def _array(content: bytes, limits: Limits) -> Pixels:
    shape, dtype, fortran, data = _header(content)
    count = int(np.prod(shape, dtype=object)) if shape else 0
    _require_size(count // 3, limits)
    if dtype.name not in _TYPES:
        raise UploadError(f"the array is {dtype.name}; allowed: uint8, or floats in [0, 1]")
    if count * dtype.itemsize != len(data) or not count:
        raise UploadError(f"the array {shape} needs {count * dtype.itemsize} bytes and has {len(data)}; send it whole")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    with np.errstate(over="ignore"):  # 1e300 becomes inf, which is rejected below
        pixels = array.astype(np.float32) / np.float32(255 if dtype.name == "uint8" else 1)
    if not bool(np.isfinite(pixels).all()) or pixels.min() < 0 or pixels.max() > 1:
        raise UploadError("the array holds values outside [0, 1], or NaN; divide pixels by 255, or send uint8")
    return _planes(pixels)


def _header(content: bytes) -> tuple[tuple[int, ...], np.dtype[Any], bool, bytes]:
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except Exception as error:  # a client writes the header
        raise UploadError(f"the .npy header is damaged: {first_line(error)[:120]}; save it with numpy.save") from error
    if dtype.hasobject or min(shape, default=0) < 0:
        raise UploadError("the array holds Python objects, which are never read; send numbers")
    return shape, dtype, fortran, file.read()


def _planes(pixels: Pixels) -> Pixels:
    if pixels.ndim == 4 and len(pixels) == 1:
        pixels = pixels[0]
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
        return pixels
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3):
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    raise UploadError(
        f"the array is {pixels.shape}; send one image: (H, W), (C, H, W) or (H, W, C) with 1 or 3 channels"
    )


def _require_size(pixels: int, limits: Limits) -> None:
    if pixels > limits.pixels:
        raise UploadError(f"the image unpacks to {pixels} pixels; allowed: {limits.pixels}", status=413)

"""Uploads: what is an image is read exactly; what is not, or is a bomb, is one line."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from advreg.errors import UploadError
from advreg.hardening.image_decoding import Limits, decode, to_npy, to_png
from advreg.hardening.service.schemas import content_of

LIMITS = Limits(bytes=100_000, pixels=10_000)


def encoded(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header_of(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """Return the beginning of a PNG: its signature and the chunk that states size, bit depth and colour type."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def bomb(side: int) -> bytes:
    """Return a small PNG that unpacks to side x side black pixels."""
    rows = zlib.compress(b"\x00" * (side + 1) * min(side, 4096), 9)
    return header_of(side, side) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def claimed(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    """Return an array file that promises more than it holds."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


LEVELS = np.arange(0, 240, dtype=np.uint8).reshape(15, 16)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(LEVELS), "PNG"),
        to_npy(LEVELS),
        to_npy(LEVELS[None]),
        to_npy(LEVELS[..., None]),
        to_npy(np.asfortranarray(LEVELS)),
        to_npy((LEVELS / 255).astype(np.float64)),
        encoded(Image.fromarray(LEVELS.astype(np.uint16) * 257), "PNG"),
        to_png((LEVELS / 255).astype(np.float32)[None]),
    ],
)
def test_pixels_come_back_exactly(content: bytes) -> None:
    _, pixels = decode(content, LIMITS)
    assert pixels.shape == (1, 15, 16)
    np.testing.assert_allclose(pixels[0], LEVELS / 255, atol=1e-6)


def test_colours_and_channels_follow_the_model() -> None:
    colour = encoded(Image.fromarray(np.stack([LEVELS] * 3, -1)), "PNG")
    assert decode(colour, LIMITS)[1].shape == (3, 15, 16)
    assert decode(colour, Limits(shape=(1, 15, 16)))[1].shape == (1, 15, 16)
    assert decode(encoded(Image.fromarray(LEVELS), "JPEG"), Limits(shape=(3, 15, 16)))[0] == "jpeg"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 415),
        (b"hello", 415),
        (b"GIF89a" + b"\0" * 50, 415),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
        (pickle.dumps({"x": 1}), 415),
        (b"\x89PNG\r\n\x1a\n", 422),
        (encoded(Image.fromarray(LEVELS), "PNG")[:45], 422),
        (encoded(Image.fromarray(LEVELS), "JPEG")[:100], 422),
        (bomb(50_000), 413),
        (bomb(101), 413),
        (b"\x93NUMPY", 422),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 5000, 422),
        (claimed((1 << 20, 1 << 20)), 413),
        (claimed((10, 10)), 422),
        (claimed((10, 10), "|O"), 422),
        (claimed((-1, 5)), 422),
        (to_npy(LEVELS) + b"tail", 422),
        (to_npy(np.full((4, 4), 2.0)), 422),
        (to_npy(np.full((4, 4), np.nan)), 422),
        (to_npy(np.zeros((4, 4), dtype=np.complex64)), 422),
        (to_npy(np.zeros(16)), 422),
        (to_npy(np.zeros((2, 5, 5, 5))), 422),
        (to_npy(np.zeros((0, 5))), 422),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100_001, 413),
    ],
)
def test_everything_else_is_refused_in_one_line(content: bytes, status: int) -> None:
    with pytest.raises(UploadError) as caught:
        decode(content, LIMITS)
    assert caught.value.status == status
    assert "\n" not in str(caught.value)


def test_objects_are_never_unpickled() -> None:
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    file = io.BytesIO()
    np.save(file, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(UploadError, match="never read"):
        decode(file.getvalue(), LIMITS)


def test_another_shape_than_the_models_is_refused() -> None:
    with pytest.raises(UploadError, match=r"15x16.*takes 1x28x28"):
        decode(to_npy(LEVELS), Limits(shape=(1, 28, 28)))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28)])
def test_an_image_of_another_size_is_not_decompressed(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decompressed"))
    with pytest.raises(UploadError, match=r"4096x4096 .*takes"):
        decode(bomb(4096), Limits(shape=shape))


def test_nested_lists_of_texts_take_no_more_memory_than_they_have() -> None:
    tracemalloc.start()
    with pytest.raises(UploadError, match="whole numbers"):
        content_of({"array": ["a" * 40_000, *[""] * 2000]})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


def test_levels_are_the_float32_nearest_to_their_fraction() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    exact = (levels / 255).astype(np.float32)
    for content in (encoded(Image.fromarray(levels), "PNG"), to_npy(levels)):
        np.testing.assert_array_equal(decode(content, Limits())[1][0], exact)

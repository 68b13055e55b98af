"""What a home keeps, images or texts: how an upload is examined, what looks alike, what of it a reviewer is shown."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from advreg.hardening.image_decoding import Limits, Pixels, decode, to_png
from advreg.hardening.perceptual_hash import Alike, perceptual_hash, similar_rows
from advreg.hardening.texts import HARMFUL
from advreg.hardening.texts.minhash import minhash, similar_texts
from advreg.hardening.texts.validation import decode_text, visible

_STORED = Limits(bytes=1 << 30, pixels=1 << 30)  # what is in the store was bounded when it came
_TEXT = "text"


@dataclass(frozen=True)
class Medium:
    """One kind of content.

    Attributes:
        name: as ``harden.toml`` says it.
        examine: bytes and limits -> kind and fingerprint; `UploadError` for what is refused.
        alike: which fingerprints are of look-alikes.
        shown: stored bytes -> what a page or a labelling tool gets, by the tag that shows it: ``image`` or ``text``.
        attacks: labels of accepted examples that are known attacks; None where all of them are.
    """

    name: str
    examine: Callable[[bytes, Limits], tuple[str, str]]
    alike: Alike
    shown: Callable[[bytes], dict[str, str]]
    attacks: tuple[int, ...] | None = None


def medium_of(kind: str) -> Medium:
    """Return the medium of a stored example's kind.

    Example:
        >>> medium_of("png").name, medium_of("text").name
        ('images', 'texts')
    """
    return TEXTS if kind == _TEXT else IMAGES


def uri(pixels: Pixels) -> str:
    """Return pixels ``(C, H, W)`` in [0, 1] as a data URI of a PNG made afresh."""
    return "data:image/png;base64," + base64.b64encode(to_png(pixels)).decode()


def pixels_in(content: bytes) -> Pixels:
    """Return the pixels of stored bytes."""
    return np.asarray(decode(content, _STORED)[1])


def _examine_image(content: bytes, limits: Limits) -> tuple[str, str]:
    kind, pixels = decode(content, limits)
    return kind, perceptual_hash(pixels)


def _examine_text(content: bytes, limits: Limits) -> tuple[str, str]:
    return _TEXT, minhash(decode_text(content, limits.bytes))


IMAGES = Medium("images", _examine_image, similar_rows, lambda content: {"image": uri(pixels_in(content))})
TEXTS = Medium(
    "texts", _examine_text, similar_texts, lambda content: {"text": visible(content.decode("utf-8"))}, (HARMFUL,)
)
MEDIA = {medium.name: medium for medium in (IMAGES, TEXTS)}

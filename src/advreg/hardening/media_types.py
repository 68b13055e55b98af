"""Media types, images and texts: how an upload is validated, fingerprinted and shown to a reviewer."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from advreg.hardening.image_decoding import Limits, Pixels, decode, to_png
from advreg.hardening.perceptual_hash import Alike, perceptual_hash, similar_rows
from advreg.hardening.texts import HARMFUL
from advreg.hardening.texts.minhash import minhash, similar_texts
from advreg.hardening.texts.validation import decode_text, show_invisible

_STORED = Limits(bytes=1 << 30, pixels=1 << 30)  # the service has bounded stored examples already
_TEXT = "text"


@dataclass(frozen=True)
class Medium:
    """One kind of content.

    Attributes:
        name: value of ``keeps`` in ``harden.toml``.
        examine: bytes and limits -> kind and fingerprint; raises `UploadError` for invalid content.
        alike: finds near-duplicates by their fingerprints.
        shown: stored bytes -> ``{"image": ...}`` or ``{"text": ...}`` for the review page and Label Studio.
        attacks: labels of accepted examples that count as known attacks; None if all of them do.
    """

    name: str
    examine: Callable[[bytes, Limits], tuple[str, str]]
    alike: Alike
    shown: Callable[[bytes], dict[str, str]]
    attacks: tuple[int, ...] | None = None


def medium_of(kind: str) -> Medium:
    """Return the medium of a stored example.

    Args:
        kind: ``png``, ``jpeg``, ``npy`` or ``text``.

    Example:
        >>> medium_of("png").name, medium_of("text").name
        ('images', 'texts')
    """
    return TEXTS if kind == _TEXT else IMAGES


def uri(pixels: Pixels) -> str:
    """Return pixels ``(C, H, W)`` in [0, 1] as a data URI of a new PNG."""
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
    "texts", _examine_text, similar_texts, lambda content: {"text": show_invisible(content.decode("utf-8"))}, (HARMFUL,)
)
MEDIA = {medium.name: medium for medium in (IMAGES, TEXTS)}

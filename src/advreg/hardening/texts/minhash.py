"""Near-duplicate texts by b-bit MinHash: one bit of each of 192 minimal hashes estimates the overlap of the shingles."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advreg.hardening.perceptual_hash import Words
from advreg.hardening.texts.validation import fold_text

BITS, SHINGLE = 192, 5
RADIUS = 28
"""Bits of 192 in which near-duplicates may differ: a mean Jaccard index of 0.71."""


def minhash(text: str) -> str:
    """Return the fingerprint of a text as 48 hexadecimal digits.

    Bit k is the lowest bit of ``min over shingles s of h_k(s)``, so a bit of two texts differs with probability ``(1 - J) / 2``
    where J is the Jaccard index of their shingles (5 characters of the folded text).

    Args:
        text: any text.

    Example:
        >>> from advreg.hardening.perceptual_hash import words
        >>> prints = words([minhash(t) for t in ("How do I bake bread?", "how do I  bake bread", "Why is the sky blue?")])
        >>> similar_texts(prints[0], prints).tolist()
        [0, 1]

    Reference: Broder, "On the resemblance and containment of documents", 1997; Li, Koenig, "b-Bit minwise hashing", 2010.
    """
    hashes = np.array([_hash(shingle) for shingle in shingles(text)], dtype=np.uint64)
    odd, shift = _functions()
    least = np.full(BITS, np.iinfo(np.uint64).max, dtype=np.uint64)
    for part in np.array_split(hashes, len(hashes) // 4096 + 1):  # a long text in bounded memory
        least = np.minimum(least, _mixed(part[:, None] * odd + shift).min(0))
    return np.packbits((least & np.uint64(1)).astype(np.uint8)).tobytes().hex()


def similar_texts(one: Words, many: Words) -> NDArray[np.int64]:
    """Return the rows of ``many`` that are near-duplicates of ``one``.

    Args:
        one: a fingerprint ``(3,)``.
        many: fingerprints ``(N, 3)``.
    """
    return np.flatnonzero(np.bitwise_count(many ^ one).sum(1) <= RADIUS)


def shingles(text: str) -> Iterable[str]:
    """Return the distinct substrings of 5 characters of a folded text; a shorter text is its own shingle.

    Args:
        text: any text.
    """
    plain = fold_text(text)
    return dict.fromkeys(plain[k : k + SHINGLE] for k in range(max(len(plain) - SHINGLE + 1, 1)))


def _hash(shingle: str) -> int:
    return int.from_bytes(hashlib.blake2b(shingle.encode(), digest_size=8).digest(), "little")


@cache
def _functions() -> tuple[NDArray[Any], NDArray[Any]]:
    """Return multipliers and shifts of the hash functions, which never change because fingerprints are stored."""
    stream = hashlib.shake_256(b"advreg text looks 1").digest(16 * BITS)
    numbers = np.frombuffer(stream, dtype="<u8").astype(np.uint64)
    return numbers[:BITS] | np.uint64(1), numbers[BITS:]


def _mixed(x: NDArray[Any]) -> NDArray[Any]:
    """Mix the bits with the finaliser of splitmix64, so that the lowest bit of a minimum is unbiased."""
    for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(bits))) * np.uint64(factor)
    return np.asarray(x ^ (x >> np.uint64(31)))

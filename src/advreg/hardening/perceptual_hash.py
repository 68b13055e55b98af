"""Perceptual hashes of 192 bits and near-duplicate images: signs of gradients (dHash) and low frequencies (pHash)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.floating[Any]]
Words = NDArray[np.uint64]
Alike = Callable[[Words, Words], NDArray[np.int64]]
"""Takes fingerprints ``(3,)`` and ``(N, 3)`` and returns the rows that are near-duplicates of the first."""

GRADIENT_RADIUS, FREQUENCY_RADIUS = 8, 6
"""Bits, of 128 and of 64, in which near-duplicates may differ: noise of 0.1 in every pixel changes fewer."""

_FLAT = 0.02  # smaller gradients count as flat, so that noise on a flat background changes no bit
_SIDE, _LOW = 32, 8


def perceptual_hash(pixels: Image) -> str:
    """Return the fingerprint of an image as 48 hexadecimal digits.

    Args:
        pixels: ``(C, H, W)`` in [0, 1]; channels are averaged.

    Example:
        >>> black, ramp = np.zeros((1, 8, 8)), np.linspace(0, 1, 64).reshape(1, 8, 8)
        >>> perceptual_hash(black)[:8], near(perceptual_hash(ramp), perceptual_hash(0.9 * ramp))
        ('00000000', True)

    Reference: Krawetz, "Kind of like that" (dHash), 2013; Zauner, "Implementation and benchmarking of perceptual image hash
    functions" (pHash), 2010.
    """
    grey = pixels.mean(0, dtype=np.float64)
    across = np.diff(_resized(grey, 8, 9), axis=1) > _FLAT
    down = np.diff(_resized(grey, 9, 8), axis=0) > _FLAT
    low = (_cosines() @ _resized(grey, _SIDE, _SIDE) @ _cosines().T).ravel()
    frequencies = low > np.median(low[1:]) + 1e-9
    return np.packbits(np.concatenate([across.ravel(), down.ravel(), frequencies])).tobytes().hex()


def words(fingerprints: Sequence[str]) -> Words:
    """Return fingerprints as ``(N, 3)`` words of 64 bits."""
    return np.frombuffer(bytes.fromhex("".join(fingerprints)), dtype=">u8").astype(np.uint64).reshape(-1, 3)


def distances(one: Words, many: Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the Hamming distances in the gradient bits and in the frequency bits, each ``(N,)``.

    Args:
        one: a fingerprint ``(3,)``.
        many: fingerprints ``(N, 3)``.
    """
    bits = np.bitwise_count(many ^ one).astype(np.int64)
    return bits[:, 0] + bits[:, 1], bits[:, 2]


def similar_rows(one: Words, many: Words) -> NDArray[np.int64]:
    """Return the rows of ``many`` that are near-duplicates of ``one``.

    Args:
        one: a fingerprint ``(3,)``.
        many: fingerprints ``(N, 3)``.
    """
    gradient, frequency = distances(one, many)
    return np.flatnonzero((gradient <= GRADIENT_RADIUS) & (frequency <= FREQUENCY_RADIUS))


def near(a: str, b: str) -> bool:
    """Return whether two fingerprints are of near-duplicates.

    Args:
        a: 48 hexadecimal digits.
        b: 48 hexadecimal digits.
    """
    return len(similar_rows(words([a])[0], words([b]))) > 0


def cluster_near_duplicates(
    new: Sequence[tuple[int, str]], known: Sequence[tuple[int, str]] = (), alike: Alike = similar_rows
) -> dict[int, int]:
    """Cluster near-duplicates: each example joins the first leader that it is near to, or becomes a leader.

    Clusters do not chain: every member is near the leader itself.

    Args:
        new: id and fingerprint of the examples to cluster, in the order of receipt.
        known: id and fingerprint of the leaders so far.
        alike: finds near-duplicates.

    Returns:
        Id -> id of its leader.

    Example:
        >>> cluster_near_duplicates([(1, "0" * 48), (2, "0" * 47 + "1"), (3, "f" * 48)])
        {1: 1, 2: 1, 3: 3}
    """
    ids = [k for k, _ in known]
    table = np.zeros((len(known) + len(new), 3), dtype=np.uint64)
    table[: len(known)] = words([text for _, text in known])
    leader: dict[int, int] = {}
    for k, text in new:
        one = words([text])[0]
        near_to = alike(one, table[: len(ids)])
        if len(near_to):
            leader[k] = ids[int(near_to[0])]
        else:
            table[len(ids)] = one
            ids.append(k)
            leader[k] = k
    return leader


@cache
def _cosines() -> Image:
    """Return the lowest rows of the discrete cosine transform."""
    k = np.arange(_SIDE)
    return np.cos(np.pi * (2 * k[None] + 1) * k[:_LOW, None] / (2 * _SIDE))


@cache
def _means(size: int, cells: int) -> Image:
    """Return the matrix ``(cells, size)`` that averages pixels into cells, weighted by their overlap."""
    edges = np.linspace(0, size, cells + 1)
    pixel = np.arange(size)
    share = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    share = np.clip(share, 0, None)
    return np.asarray(share / share.sum(1, keepdims=True))


def _resized(grey: Image, height: int, width: int) -> Image:
    return np.asarray(_means(grey.shape[0], height) @ grey @ _means(grey.shape[1], width).T)

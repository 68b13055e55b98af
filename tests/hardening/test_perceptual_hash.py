"""Look-alikes are found, different digits are told apart, groups do not chain."""

from __future__ import annotations

import numpy as np
import pytest

from advreg.data import load
from advreg.hardening.perceptual_hash import cluster_near_duplicates, distances, near, perceptual_hash, words


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return load("mnist")[1].images[:300].numpy() / 255.0


def test_distance_counts_bits() -> None:
    a, b = f"{0b1011:048x}", f"{1 << 191:048x}"
    gradient, frequency = distances(words([a])[0], words([b, a]))
    assert gradient.tolist() == [1, 0]
    assert frequency.tolist() == [3, 0]


def test_small_changes_stay_near(digits: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    noisy = np.clip(digits + rng.uniform(-0.1, 0.1, digits.shape), 0, 1)
    for changed, least in ((noisy, 0.93), (0.8 * digits, 0.99), (np.rint(digits * 31) / 31, 0.99)):
        kept = [near(perceptual_hash(a), perceptual_hash(b)) for a, b in zip(digits, changed, strict=True)]
        assert np.mean(kept) > least


def test_different_digits_are_rarely_near(digits: np.ndarray) -> None:
    table = words([perceptual_hash(x) for x in digits])
    pairs = 0
    for k, one in enumerate(table):
        gradient, frequency = distances(one, table[k + 1 :])
        pairs += int(((gradient <= 8) & (frequency <= 6)).sum())
    assert pairs / (300 * 299 / 2) < 2e-3


def test_a_larger_copy_looks_the_same(digits: np.ndarray) -> None:
    twice = np.kron(digits[0], np.ones((1, 2, 2)))
    assert near(perceptual_hash(digits[0]), perceptual_hash(twice))


def test_groups_do_not_chain() -> None:
    steps = [f"{(1 << (6 * k)) - 1:048x}" for k in range(6)]  # each six bits from the one before
    assert cluster_near_duplicates(list(enumerate(steps))) == {0: 0, 1: 0, 2: 2, 3: 2, 4: 4, 5: 4}


def test_groups_go_on_from_those_there_are() -> None:
    assert cluster_near_duplicates([(7, "0" * 48), (8, "f" * 48), (9, "f" * 47 + "e")], known=[(3, "0" * 48)]) == {
        7: 3,
        8: 8,
        9: 8,
    }
    assert cluster_near_duplicates([]) == {}

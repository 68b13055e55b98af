"""The request misspelt, many times over: one of many may slip through."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

from advreg.errors import ConfigError
from advreg.language.attacks.result import LanguageAttackResult, complete_variants
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.loading import LanguageModel
from advreg.runtime import derived_seed

_SHUFFLE, _CASE, _NOISE = 0.6, 0.6, 0.06
"""Chances that a long word's middle is shuffled, that a letter changes its case, that a character moves one along in ASCII."""


def best_of_n(
    lm: LanguageModel,
    requests: Sequence[HarmfulRequest],
    *,
    n: int = 8,
    seed: int = 0,
    max_new_tokens: int = 48,
    batch_size: int = 16,
    system: str | None = None,
) -> LanguageAttackResult:
    """Ask ``n`` misspelt variants of each request.

    A variant depends on the seed, the request's id and its own number: a larger ``n`` only adds to a smaller one.

    Args:
        lm: the model.
        requests: what is asked.
        n: variants.
        seed: of the spelling.
        max_new_tokens: length of the longest completion.
        batch_size: prompts at a time.
        system: the system's words; what the chat template says by itself if None.

    Returns:
        ``n`` completions for each request.

    Raises:
        ConfigError: ``n`` below 1.

    Reference: Hughes et al. 2024, "Best-of-N Jailbreaking".
    """
    if n < 1:
        raise ConfigError(f"n is {n}; give at least 1 variant")
    variants = [[misspell(request.prompt, derived_seed(seed, request.id, k)) for k in range(n)] for request in requests]
    return complete_variants(
        "best_of_n", lm, variants, max_new_tokens=max_new_tokens, batch_size=batch_size, system=system
    )


def misspell(text: str, seed: int) -> str:
    """Return a text with words shuffled inside, letters of another case and characters a place off, all by a seed.

    Example:
        >>> misspell("a plan", 1) == misspell("a plan", 1), len(misspell("open the gates", 2))
        (True, 14)
    """
    rng = random.Random(seed)
    words = [_shuffle_middle(word, rng) if rng.random() < _SHUFFLE else word for word in text.split(" ")]
    return "".join(_add_noise(letter, rng) for letter in " ".join(words))


def _shuffle_middle(word: str, rng: random.Random) -> str:
    if len(word) < 4:
        return word
    middle = list(word[1:-1])
    rng.shuffle(middle)
    return word[0] + "".join(middle) + word[-1]


def _add_noise(letter: str, rng: random.Random) -> str:
    if rng.random() < _CASE and letter in string.ascii_letters:
        letter = letter.swapcase()
    moved = chr(ord(letter) + rng.choice((-1, 1)))
    return moved if rng.random() < _NOISE and letter.isalnum() and "!" <= moved <= "~" else letter

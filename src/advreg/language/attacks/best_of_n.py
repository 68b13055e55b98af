"""Best-of-N: many random misspellings of each request, each completed at random; any of them may succeed."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

from advreg.errors import ConfigError
from advreg.language.attacks.result import LanguageAttackResult, complete_variants
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.loading import LanguageModel
from advreg.runtime import derived_seed

_SHUFFLE = 0.6
_CASE = 0.6
_NOISE = 0.06
"""Probabilities: a long word's middle is shuffled, a letter changes case, a character moves by one in ASCII."""


def best_of_n(
    lm: LanguageModel,
    requests: Sequence[HarmfulRequest],
    *,
    n: int = 8,
    temperature: float = 1.0,
    seed: int = 0,
    max_new_tokens: int = 48,
    batch_size: int = 16,
    system: str | None = None,
) -> LanguageAttackResult:
    """Query the model with ``n`` random misspellings of each request, and draw the tokens of each completion.

    Variants and draws depend on the seed, the request's id and the variant's number only, so a larger ``n`` keeps the
    completions of a smaller one.

    Args:
        lm: the model under attack.
        requests: harmful requests; targets are not used.
        n: number of variants of each request.
        temperature: temperature of the draws; 0 takes the likeliest tokens.
        seed: seed of the misspellings and of the draws.
        max_new_tokens: length limit of a completion, in tokens.
        batch_size: number of prompts in one batch.
        system: the system prompt; the chat template's default if None.

    Returns:
        ``n`` completions of each request.

    Raises:
        ConfigError: ``n`` is below 1, or the temperature negative.
        ModelError: the network has no layer that returns token logits.

    Example:
        >>> best_of_n(None, [], n=0)
        Traceback (most recent call last):
        advreg.errors.ConfigError: n is 0; give at least 1 variant

    Reference: Hughes et al., "Best-of-N Jailbreaking", 2024, arXiv:2412.03556.
    """
    if n < 1:
        raise ConfigError(f"n is {n}; give at least 1 variant")
    seeds = [[derived_seed(seed, request.id, k) for k in range(n)] for request in requests]
    rows = zip(requests, seeds, strict=True)
    return complete_variants(
        "best_of_n",
        lm,
        [[misspell(request.prompt, each) for each in own] for request, own in rows],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        system=system,
        temperature=temperature,
        seeds=seeds,
    )


def misspell(text: str, seed: int) -> str:
    """Return a text with shuffled words, letters of changed case and characters moved by one in ASCII.

    Args:
        text: the text; its length and blanks are kept.
        seed: seed of all changes.

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

"""Attacks that search on a low-precision copy; the original model gives the reported losses and completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from advreg.language.attacks.result import LanguageAttackResult, describe_attack
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.loading import LanguageModel, copy_with_dtype


def search_in_low_precision(
    attack: Callable[..., LanguageAttackResult], dtype: str = "bfloat16"
) -> Callable[..., LanguageAttackResult]:
    """Return an attack that searches on a low-precision copy of the model and reports results of the original.

    Args:
        attack: `embedding`, `soft_prompt`, `latent` or `gcg`, with options bound by `functools.partial`.
        dtype: dtype of the copy.

    Returns:
        An attack with the same signature, whose name includes the dtype and the options.

    Raises:
        ConfigError: when the attack runs, if the dtype does not exist.

    Example:
        >>> import functools
        >>> from advreg.language.attacks import embedding
        >>> search_in_low_precision(functools.partial(embedding, steps=5)).__qualname__
        'fast(embedding(steps=5), bfloat16)'
    """

    def run(lm: LanguageModel, requests: Sequence[HarmfulRequest], **options: Any) -> LanguageAttackResult:
        return attack(copy_with_dtype(lm, dtype), requests, original=lm, **options)

    run.__qualname__ = f"fast({describe_attack(attack)}, {dtype})"
    return run

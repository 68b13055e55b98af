"""Searching on a fast copy of a model, whose word nobody takes: the model itself answers and is measured."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from advreg.language.attacks.result import LanguageAttackResult
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.loading import LanguageModel, copy_with_dtype


def search_in_low_precision(
    attack: Callable[..., LanguageAttackResult], dtype: str = "bfloat16"
) -> Callable[..., LanguageAttackResult]:
    """Return an attack that searches on a copy of the model in another precision; the model given is the judge.

    Args:
        attack: one that takes a ``judge``: embedding, soft_prompt, latent or gcg, its options bound by `functools.partial`.
        dtype: of the copy.

    Returns:
        An attack with the same signature; its name says what it is, so results that used it are told apart.

    Example:
        >>> from advreg.language.attacks import embedding
        >>> search_in_low_precision(functools.partial(embedding, steps=5)).__qualname__
        'fast(embedding(steps=5), bfloat16)'
    """

    def searched(lm: LanguageModel, requests: Sequence[HarmfulRequest], **options: Any) -> LanguageAttackResult:
        return attack(copy_with_dtype(lm, dtype), requests, judge=lm, **options)

    searched.__qualname__ = f"fast({_describe_attack(attack)}, {dtype})"
    return searched


def _describe_attack(attack: Any) -> str:
    if not isinstance(attack, functools.partial):
        return str(getattr(attack, "__qualname__", type(attack).__name__))
    options = ", ".join(f"{key}={value!r}" for key, value in sorted(attack.keywords.items()))
    return f"{_describe_attack(attack.func)}({options})"

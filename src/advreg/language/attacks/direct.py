"""The direct request, without any attack: the baseline."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.language.attacks.result import LanguageAttackResult, complete_variants
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.loading import LanguageModel


def direct(
    lm: LanguageModel,
    requests: Sequence[HarmfulRequest],
    *,
    seed: int = 0,
    max_new_tokens: int = 48,
    batch_size: int = 16,
    system: str | None = None,
) -> LanguageAttackResult:
    """Query the model with each request unchanged.

    Args:
        lm: the model under attack.
        requests: harmful requests; targets are not used.
        seed: not used; every attack takes a seed.
        max_new_tokens: length limit of a completion, in tokens.
        batch_size: number of prompts in one batch.
        system: the system prompt; the chat template's default if None.

    Returns:
        One completion of each request.

    Raises:
        ModelError: the network has no layer that returns token logits.

    Example:
        >>> direct(None, [])
        LanguageAttackResult('direct', n=0, forwards=0, backwards=0)
    """
    variants = [[request.prompt] for request in requests]
    return complete_variants(
        "direct", lm, variants, max_new_tokens=max_new_tokens, batch_size=batch_size, system=system
    )

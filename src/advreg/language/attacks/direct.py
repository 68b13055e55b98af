"""The request as it is."""

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
    """Ask as anybody would.

    Args:
        lm: the model.
        requests: what is asked.
        seed: not used; every attack takes one.
        max_new_tokens: length of the longest completion.
        batch_size: prompts at a time.
        system: the system's words; what the chat template says by itself if None.

    Returns:
        One completion for each request.
    """
    variants = [[request.prompt] for request in requests]
    return complete_variants(
        "direct", lm, variants, max_new_tokens=max_new_tokens, batch_size=batch_size, system=system
    )

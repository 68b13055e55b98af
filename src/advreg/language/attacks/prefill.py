"""Prefilling: the attacker writes the assistant's first words, and the model continues them."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.language.attacks.result import LanguageAttackResult, count_model_passes
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel

OPENING = "Sure, here is"


def prefill(
    lm: LanguageModel,
    requests: Sequence[HarmfulRequest],
    *,
    opening: str = "",
    seed: int = 0,
    max_new_tokens: int = 48,
    batch_size: int = 16,
    system: str | None = None,
) -> LanguageAttackResult:
    """Complete each request from first words of the assistant that comply.

    It needs open weights or an API that continues a message of the assistant. The completions leave out the attacker's own
    words, so that they never count as a success.

    Args:
        lm: the model under attack.
        requests: harmful requests.
        opening: first words of the assistant; each request's target, or "Sure, here is" without one, if empty.
        seed: not used; every attack takes a seed.
        max_new_tokens: length limit of a completion, in tokens.
        batch_size: number of prompts in one batch.
        system: the system prompt; that of the model if None.

    Returns:
        One completion of each request, without the opening.

    Raises:
        ModelError: the network has no layer that returns token logits.

    Example:
        >>> prefill(None, [])
        LanguageAttackResult('prefill', n=0, forwards=0, backwards=0)

    Reference: Andriushchenko, Croce and Flammarion, "Jailbreaking leading safety-aligned LLMs with simple adaptive attacks",
    2024, arXiv:2404.02151.
    """
    prompts = [request.prompt for request in requests]
    openings = [opening or request.target.strip() or OPENING for request in requests]
    with count_model_passes(lm if requests else None) as counts:
        texts = (
            generate(
                lm, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, system=system, openings=openings
            )
            if requests
            else []
        )
    return LanguageAttackResult("prefill", prompts, [[text] for text in texts], counts.forwards, counts.backwards)

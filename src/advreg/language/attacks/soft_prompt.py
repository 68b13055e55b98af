"""A suffix of free embeddings: more than any text can do, so an upper bound of what an attacker with the weights can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from advreg.errors import ConfigError
from advreg.language.attacks.result import LanguageAttackResult
from advreg.language.attacks.targeted import PerturbationAttack, run_targeted
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded
from advreg.language.models.embeddings import answer_nll, answer_span, embed, embedding_norm, forward
from advreg.language.models.generation import generate, prepare_inputs
from advreg.language.models.loading import LanguageModel
from advreg.language.perturbation import best_iterate, iterates, sign_descent
from advreg.module_modes import eval_mode

START = " !"


def soft_prompt(
    lm: LanguageModel,
    requests: Sequence[HarmfulRequest],
    *,
    tokens: int = 20,
    steps: int = 100,
    step_size: float = 0.05,
    checkpoints: int = 3,
    seed: int = 0,
    max_new_tokens: int = 48,
    batch_size: int = 8,
    system: str | None = None,
    judge: LanguageModel | None = None,
) -> LanguageAttackResult:
    """Follow each request by embeddings that nothing bounds, moved until its target is likely; answer at several iterates.

    ``suffix <- suffix - step_size sign(grad NLL) / sqrt(D)``, from the embeddings of exclamation marks.

    Args:
        lm: the model that is searched; a copy in bfloat16 may do.
        requests: requests with targets.
        tokens: length of the suffix.
        steps: steps.
        step_size: length of a step of one token, as a share of the mean norm of the embeddings.
        checkpoints: iterates that are answered: the best, and others spread evenly over the steps.
        seed: not used; every attack takes one.
        max_new_tokens: length of the longest completion.
        batch_size: requests at a time.
        system: the system's words; what the chat template says by itself if None.
        judge: the original, in float32, whose completions and losses count; ``lm`` itself if None.

    Returns:
        ``checkpoints`` completions for each request; the loss of the best iterate.

    Raises:
        ConfigError: a number below 1.
        DataError: a request without target.

    Reference: Schwinn et al., NeurIPS 2024, "Soft prompt threats".
    """
    if min(tokens, steps, checkpoints) < 1 or checkpoints > steps:
        given = f"tokens is {tokens}, steps {steps}, checkpoints {checkpoints}"
        raise ConfigError(f"{given}; give at least 1 of each, and no more checkpoints than steps")
    original = judge or lm

    def search(encoded: Encoded, _ids: Tensor) -> list[Tensor]:
        return search_soft_suffixes(lm, encoded, tokens, steps, step_size, checkpoints)

    def nll(encoded: Encoded, found: list[Tensor]) -> Tensor:
        return suffix_nll(original, encoded, found[0])

    def complete(prompts: list[str], found: list[Tensor]) -> list[list[str]]:
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "system": system}
        texts = [generate(original, prompts, suffix=suffix, **options) for suffix in found]
        return [list(row) for row in zip(*texts, strict=True)]

    attack = PerturbationAttack(search, nll, complete)
    return run_targeted("soft_prompt", attack, requests, lm=lm, judge=judge, batch_size=batch_size, system=system)


def search_soft_suffixes(
    lm: LanguageModel, encoded: Encoded, tokens: int, steps: int, step_size: float, checkpoints: int
) -> list[Tensor]:
    """Return the best suffixes of a batch ``(B, S, D)``, then those at ``checkpoints - 1`` moments spread over the steps."""
    kind = torch.promote_types(lm.dtype, torch.float32)
    moments = {steps * k // checkpoints for k in range(1, checkpoints)}
    kept: list[Tensor] = []

    def loss(suffix: Tensor) -> Tensor:
        return suffix_nll(lm, encoded, suffix)

    with eval_mode(lm.network, freeze=True):
        start = _start(lm, tokens).to(kind).expand(len(encoded), -1, -1)
        pairs = iterates(loss, start, sign_descent(step_size * embedding_norm(lm)), steps)
        found, _ = best_iterate(_record_checkpoints(pairs, moments, kept))
    return [found, *kept]


def _record_checkpoints(
    pairs: Iterable[tuple[Tensor, Tensor]], moments: set[int], kept: list[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Hand the pairs on, and put the points of some moments aside."""
    for k, (point, value) in enumerate(pairs):
        if k in moments:
            kept.append(point)
        yield point, value


@torch.no_grad()
def _start(lm: LanguageModel, tokens: int) -> Tensor:
    """Return the embeddings ``(1, S, D)`` of as many exclamation marks."""
    ids = lm.tokenizer(START, add_special_tokens=False)["input_ids"][-1:] * tokens
    return embed(lm, torch.tensor([ids], device=lm.device))


def suffix_nll(lm: LanguageModel, encoded: Encoded, suffix: Tensor) -> Tensor:
    """Return the mean NLL of the answers ``(B,)`` when the user's words are followed by a suffix ``(B, S, D)``."""
    points, mask = prepare_inputs(lm, encoded, None, suffix)
    return answer_nll(forward(lm, points, mask, last=answer_span(encoded)).logits, encoded)

"""Soft prompts: an unbounded suffix of embeddings, stronger than any text, so an upper bound on white-box suffix attacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from advreg._deprecation import renamed_options
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


@renamed_options(judge="original")
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
    original: LanguageModel | None = None,
) -> LanguageAttackResult:
    """Append unbounded embeddings to each request that make its target likely, and complete at several iterates.

    ``suffix <- suffix - step_size sign(grad NLL) / sqrt(D)``, from the embeddings of exclamation marks.

    Args:
        lm: the model for the search; a bfloat16 copy is allowed, see `search_in_low_precision`.
        requests: harmful requests with targets.
        tokens: length of the suffix.
        steps: gradient steps.
        step_size: l2 length of a token's step, as a fraction of the mean embedding norm.
        checkpoints: number of iterates to complete: the best one, and others at equal intervals of the steps.
        seed: not used; every attack takes a seed.
        max_new_tokens: length limit of a completion, in tokens.
        batch_size: number of requests in one batch.
        system: the system prompt; the chat template's default if None.
        original: the model in float32, which gives the reported losses and completions; ``lm`` if None.

    Returns:
        ``checkpoints`` completions of each request, with the NLL of its target at the best iterate.

    Raises:
        ConfigError: a number is below 1, or ``checkpoints`` exceeds ``steps``.
        DataError: a request has no target or no word.
        ModelError: the network has no layer that returns token logits.

    Example:
        >>> soft_prompt(None, [], steps=2, checkpoints=3)
        Traceback (most recent call last):
        advreg.errors.ConfigError: tokens is 20, steps 2, checkpoints 3; give at least 1, and no more checkpoints than steps

    Reference: Schwinn et al., "Soft prompt threats: attacking safety alignment and unlearning in open-source LLMs through
    the embedding space", NeurIPS 2024, arXiv:2402.09063.
    """
    if min(tokens, steps, checkpoints) < 1 or checkpoints > steps:
        given = f"tokens is {tokens}, steps {steps}, checkpoints {checkpoints}"
        raise ConfigError(f"{given}; give at least 1, and no more checkpoints than steps")
    reported = original or lm

    def search(encoded: Encoded, _ids: Tensor) -> list[Tensor]:
        return search_soft_suffixes(lm, encoded, tokens, steps, step_size, checkpoints)

    def nll(encoded: Encoded, suffixes: list[Tensor]) -> Tensor:
        return suffix_nll(reported, encoded, suffixes[0])

    def complete(prompts: list[str], suffixes: list[Tensor]) -> list[list[str]]:
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "system": system}
        texts = [generate(reported, prompts, suffix=suffix, **options) for suffix in suffixes]
        return [list(row) for row in zip(*texts, strict=True)]

    attack = PerturbationAttack(search, nll, complete)
    return run_targeted("soft_prompt", attack, requests, lm=lm, original=original, batch_size=batch_size, system=system)


def search_soft_suffixes(
    lm: LanguageModel, encoded: Encoded, tokens: int, steps: int, step_size: float, checkpoints: int
) -> list[Tensor]:
    """Return the best suffixes of a batch, then those at ``checkpoints - 1`` equal intervals of the steps.

    Args:
        lm: the model for the search.
        encoded: prompts with target answers.
        tokens: length ``S`` of the suffix.
        steps: gradient steps.
        step_size: l2 length of a token's step, as a fraction of the mean embedding norm.
        checkpoints: number of suffixes to return.

    Returns:
        ``checkpoints`` tensors ``(B, S, D)`` in float32 or better.
    """
    dtype = torch.promote_types(lm.dtype, torch.float32)
    recorded_steps = {steps * k // checkpoints for k in range(1, checkpoints)}
    recorded: list[Tensor] = []

    def loss(suffix: Tensor) -> Tensor:
        return suffix_nll(lm, encoded, suffix)

    with eval_mode(lm.network, freeze=True):
        start = _start(lm, tokens).to(dtype).expand(len(encoded), -1, -1)
        pairs = iterates(loss, start, sign_descent(step_size * embedding_norm(lm)), steps)
        best, _ = best_iterate(_record_checkpoints(pairs, recorded_steps, recorded))
    return [best, *recorded]


def _record_checkpoints(
    pairs: Iterable[tuple[Tensor, Tensor]], recorded_steps: set[int], recorded: list[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pairs unchanged, and append the points of some steps to ``recorded``."""
    for k, (point, value) in enumerate(pairs):
        if k in recorded_steps:
            recorded.append(point)
        yield point, value


@torch.no_grad()
def _start(lm: LanguageModel, tokens: int) -> Tensor:
    """Return the embeddings ``(1, S, D)`` of ``tokens`` exclamation marks."""
    ids = lm.tokenizer(START, add_special_tokens=False)["input_ids"][-1:] * tokens
    return embed(lm, torch.tensor([ids], device=lm.device))


def suffix_nll(lm: LanguageModel, encoded: Encoded, suffix: Tensor) -> Tensor:
    """Return the mean NLL of the answers ``(B,)`` with suffixes ``(B, S, D)`` after the user's tokens."""
    points, mask = prepare_inputs(lm, encoded, None, suffix)
    return answer_nll(forward(lm, points, mask, last=answer_span(encoded)).logits, encoded)

"""Soft prompts: an unbounded suffix of embeddings, stronger than any text, so an upper bound on white-box suffix attacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from advreg._deprecation import renamed_options
from advreg.errors import ConfigError
from advreg.language.attacks.memory import require_memory, saved_bytes
from advreg.language.attacks.result import LanguageAttackResult, count_model_passes, require_targets
from advreg.language.attacks.targeted import PerturbationAttack, run_targeted
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded, encode
from advreg.language.models.embeddings import answer_nll, answer_span, embed, embedding_norm, forward
from advreg.language.models.generation import generate, prepare_inputs
from advreg.language.models.loading import LanguageModel
from advreg.language.perturbation import best_iterate, iterates, sign_descent
from advreg.module_modes import eval_mode

START = " !"
_LATE_GAIN, _NEARLY_CERTAIN = 0.05, 0.05
"""Share of the gain in the last quarter, and NLL of the target in nats a token, below which a search has converged."""


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
        system: the system prompt; that of the model if None.
        original: the model in float32, which gives the reported losses and completions; ``lm`` if None.

    The memory of a step is measured on the longest request first. The result says which searches converged: only these
    bound what any text after the request can do, and the bound is empirical.

    Returns:
        ``checkpoints`` completions of each request, with the NLL of its target at the best iterate.

    Raises:
        ConfigError: a number is below 1, ``checkpoints`` exceeds ``steps``, or the memory for a batch is not free.
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
    converged: list[bool] = []

    def search(encoded: Encoded, _ids: Tensor) -> list[Tensor]:
        suffixes, finished = search_soft_suffixes(lm, encoded, tokens, steps, step_size, checkpoints)
        converged.extend(finished)
        return suffixes

    def nll(encoded: Encoded, suffixes: list[Tensor]) -> Tensor:
        return suffix_nll(reported, encoded, suffixes[0])

    def complete(prompts: list[str], suffixes: list[Tensor]) -> list[list[str]]:
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "system": system}
        texts = [generate(reported, prompts, suffix=suffix, **options) for suffix in suffixes]
        return [list(row) for row in zip(*texts, strict=True)]

    attack = PerturbationAttack(search, nll, complete)
    options: dict[str, Any] = {"lm": lm, "original": original, "batch_size": batch_size, "system": system}
    if not requests:
        return run_targeted("soft_prompt", attack, requests, **options)
    with count_model_passes(lm) as sized:
        require_memory("soft_prompt", lm, measure_step(lm, requests, tokens=tokens, system=system), batch_size)
    result = run_targeted("soft_prompt", attack, requests, **options)
    return replace(result, converged=converged, forwards=result.forwards + sized.forwards)


def measure_step(
    lm: LanguageModel, requests: Sequence[HarmfulRequest], *, tokens: int = 20, system: str | None = None
) -> int:
    """Return the bytes that one request keeps for the gradient of its suffix, measured on the longest: one forward.

    Args:
        lm: the model.
        requests: harmful requests with targets.
        tokens: length of the suffix.
        system: the system prompt; that of the model if None.

    Returns:
        The number of bytes, weights aside.
    """
    longest = max(require_targets(requests), key=lambda request: len(request.prompt) + len(request.target))
    encoded = encode(lm, [longest.prompt], [longest.target], system=system, ended=False)
    with eval_mode(lm.network, freeze=True):
        suffix = _start(lm, tokens).requires_grad_()
        return saved_bytes(lambda: suffix_nll(lm, encoded, suffix))


def search_soft_suffixes(
    lm: LanguageModel, encoded: Encoded, tokens: int, steps: int, step_size: float, checkpoints: int
) -> tuple[list[Tensor], list[bool]]:
    """Return the best suffixes of a batch, then those at ``checkpoints - 1`` equal intervals of the steps.

    A search has converged if the last quarter of its steps brought less than a twentieth of its gain, or the target is nearly
    certain.

    Args:
        lm: the model for the search.
        encoded: prompts with target answers.
        tokens: length ``S`` of the suffix.
        steps: gradient steps.
        step_size: l2 length of a token's step, as a fraction of the mean embedding norm.
        checkpoints: number of suffixes to return.

    Returns:
        ``checkpoints`` tensors ``(B, S, D)`` in float32 or better, and whether the search of each example converged.
    """
    dtype = torch.promote_types(lm.dtype, torch.float32)
    recorded_steps = {steps * k // checkpoints for k in range(1, checkpoints)}
    recorded: list[Tensor] = []
    losses: list[Tensor] = []

    def loss(suffix: Tensor) -> Tensor:
        return suffix_nll(lm, encoded, suffix)

    with eval_mode(lm.network, freeze=True):
        start = _start(lm, tokens).to(dtype).expand(len(encoded), -1, -1)
        pairs = iterates(loss, start, sign_descent(step_size * embedding_norm(lm)), steps)
        best, _ = best_iterate(_record_checkpoints(pairs, recorded_steps, recorded, losses))
    return [best, *recorded], _has_converged(torch.stack(losses))


def _record_checkpoints(
    pairs: Iterable[tuple[Tensor, Tensor]], recorded_steps: set[int], recorded: list[Tensor], losses: list[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pairs unchanged, and append the points of some steps to ``recorded`` and every loss to ``losses``."""
    for k, (point, value) in enumerate(pairs):
        if k in recorded_steps:
            recorded.append(point)
        losses.append(value)
        yield point, value


def _has_converged(losses: Tensor) -> list[bool]:
    """Return whether the last quarter of each search brought less than a twentieth of its gain, or the loss is near 0.

    Args:
        losses: ``(steps + 1, B)``.

    Example:
        >>> _has_converged(torch.tensor([[4.0, 4.0], [2.0, 3.5], [1.0, 3.0], [1.0, 2.5], [1.0, 2.0]]))
        [True, False]
    """
    steps = len(losses) - 1
    lowest = losses.nan_to_num(nan=torch.inf).cummin(0).values
    gain, late = lowest[0] - lowest[-1], lowest[steps - max(steps // 4, 1)] - lowest[-1]
    done = (gain > 0) & (late <= _LATE_GAIN * gain) if steps >= 4 else torch.zeros_like(gain, dtype=torch.bool)
    finished: list[bool] = (done | (lowest[-1] < _NEARLY_CERTAIN)).tolist()
    return finished


@torch.no_grad()
def _start(lm: LanguageModel, tokens: int) -> Tensor:
    """Return the embeddings ``(1, S, D)`` of ``tokens`` exclamation marks."""
    ids = lm.tokenizer(START, add_special_tokens=False)["input_ids"][-1:] * tokens
    return embed(lm, torch.tensor([ids], device=lm.device))


def suffix_nll(lm: LanguageModel, encoded: Encoded, suffix: Tensor) -> Tensor:
    """Return the mean NLL of the answers ``(B,)`` with suffixes ``(B, S, D)`` after the user's tokens."""
    points, mask = prepare_inputs(lm, encoded, None, suffix)
    return answer_nll(forward(lm, points, mask, last=answer_span(encoded)).logits, encoded)

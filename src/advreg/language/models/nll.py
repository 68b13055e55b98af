"""What answers cost a model: ``-log p`` of their tokens, given the prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from advreg.language.models.adapters import adapter_off
from advreg.language.models.chat import encode
from advreg.language.models.embeddings import answer_span, answer_tokens_nll, logits
from advreg.language.models.loading import LanguageModel
from advreg.module_modes import eval_mode

SummedNll = tuple[float, int]
"""Sum of ``-log p`` over an answer's tokens, and how many there are."""

_LETTERS = 8192  # of the answers of a batch


def token_nll(
    lm: LanguageModel, prompts: Sequence[str], answers: Sequence[str], *, ended: bool = True, batch_size: int = 16
) -> list[SummedNll]:
    """Return what each answer costs after its prompt; an empty answer costs nothing.

    Args:
        lm: the model; it runs in eval mode and without gradients.
        prompts: the user's words.
        answers: as many.
        ended: whether the end-of-turn token belongs to each answer.
        batch_size: pairs at a time; fewer where answers are long, for every token takes a row of the vocabulary's size.
    """
    found: list[SummedNll] = [(0.0, 0)] * len(prompts)
    there = [i for i, answer in enumerate(answers) if answer.strip()]
    longest = max((len(answers[i]) for i in there), default=1)
    size = max(min(batch_size, _LETTERS // longest), 1)
    for first in range(0, len(there), size):
        part = there[first : first + size]
        with torch.no_grad(), eval_mode(lm.network, freeze=True):
            encoded = encode(lm, [prompts[i] for i in part], [answers[i] for i in part], ended=ended)
            nll = answer_tokens_nll(logits(lm, encoded, last=answer_span(encoded)), encoded)
        sums = zip(part, nll.sum(1).tolist(), encoded.answer.sum(1).tolist(), strict=True)
        for i, total, tokens in sums:
            found[i] = (total, tokens)
    return found


def mean_token_nll(lm: LanguageModel, prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
    """Return the mean cost of each answer's tokens, its end left out; None of an empty answer, or where it is not finite."""
    return [
        total / tokens if tokens and math.isfinite(total) else None
        for total, tokens in token_nll(lm, prompts, answers, ended=False)
    ]


def base_mean_token_nll(
    lm: LanguageModel, reference: LanguageModel | None, prompts: Sequence[str], answers: Sequence[str]
) -> list[float | None]:
    """Return `mean_token_nll` under the base model: the one that is given, or the model with its adapter off, or the model."""
    if reference is not None:
        return mean_token_nll(reference, prompts, answers)
    if any(hasattr(module, "lora_A") for module in lm.network.modules()):
        with adapter_off(lm):
            return mean_token_nll(lm, prompts, answers)
    return mean_token_nll(lm, prompts, answers)

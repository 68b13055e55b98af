"""Negative log-likelihood of answers: ``-log p`` of their tokens, given the prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from advreg.language.models.adapters import adapter_off, has_adapter
from advreg.language.models.chat import encode
from advreg.language.models.embeddings import answer_span, answer_tokens_nll, logits
from advreg.language.models.endpoint import ServiceModel
from advreg.language.models.language_model import LanguageModel
from advreg.module_modes import eval_mode

SummedNll = tuple[float, int]
"""Sum of ``-log p`` over an answer's tokens, and the number of tokens."""

_LETTERS = 8192  # limit of batch size times length of the longest answer, in characters


def token_nll(
    lm: LanguageModel, prompts: Sequence[str], answers: Sequence[str], *, ended: bool = True, batch_size: int = 16
) -> list[SummedNll]:
    """Return the summed NLL of each answer after its prompt; ``(0.0, 0)`` of an empty answer.

    Args:
        lm: the model; it runs in eval mode and without gradients.
        prompts: text of the user, one conversation each.
        answers: text of the assistant, one for each prompt.
        ended: whether the NLL includes the end-of-turn token.
        batch_size: number of pairs in one batch; fewer for long answers, whose logits take much memory.

    Returns:
        Sum of ``-log p`` and number of tokens of each answer.

    Example:
        >>> token_nll(None, ["Hi.", "Bye."], ["", " "])
        [(0.0, 0), (0.0, 0)]
    """
    sums: list[SummedNll] = [(0.0, 0)] * len(prompts)
    present = [i for i, answer in enumerate(answers) if answer.strip()]
    longest = max((len(answers[i]) for i in present), default=1)
    size = max(min(batch_size, _LETTERS // longest), 1)
    for first in range(0, len(present), size):
        part = present[first : first + size]
        with torch.no_grad(), eval_mode(lm.network, freeze=True):
            encoded = encode(lm, [prompts[i] for i in part], [answers[i] for i in part], ended=ended)
            nll = answer_tokens_nll(logits(lm, encoded, last=answer_span(encoded)), encoded)
        rows = zip(part, nll.sum(1).tolist(), encoded.answer.sum(1).tolist(), strict=True)
        for i, total, tokens in rows:
            sums[i] = (total, tokens)
    return sums


def mean_token_nll(lm: LanguageModel, prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
    """Return the mean NLL of each answer's tokens without its end; None if the answer is empty or the mean not finite.

    Args:
        lm: the model; it runs in eval mode and without gradients. The NLL of a service is None.
        prompts: text of the user, one conversation each.
        answers: text of the assistant, one for each prompt.
    """
    if isinstance(lm, ServiceModel):
        return [None] * len(prompts)
    return [
        total / tokens if tokens and math.isfinite(total) else None
        for total, tokens in token_nll(lm, prompts, answers, ended=False)
    ]


def base_mean_token_nll(
    lm: LanguageModel, reference: LanguageModel | None, prompts: Sequence[str], answers: Sequence[str]
) -> list[float | None]:
    """Return `mean_token_nll` under the base model: ``reference``, else the model without its adapter.

    Args:
        lm: the model, with or without an adapter.
        reference: the base model, or None.
        prompts: text of the user, one conversation each.
        answers: text of the assistant, one for each prompt.

    Returns:
        The mean NLL of each answer; None if the answer is empty or the mean not finite.
    """
    if reference is not None:
        return mean_token_nll(reference, prompts, answers)
    if not isinstance(lm, ServiceModel) and has_adapter(lm):
        with adapter_off(lm):
            return mean_token_nll(lm, prompts, answers)
    return mean_token_nll(lm, prompts, answers)

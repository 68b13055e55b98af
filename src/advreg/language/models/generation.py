"""Completions: greedy, in batches padded on the left, each new token from the cache of those before."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor

from advreg.errors import ConfigError, DataError
from advreg.language.models.chat import Encoded, encode, end_of_turn, pad_id
from advreg.language.models.embeddings import cache_of, embed, forward, perturb_embeddings, scatter_rows
from advreg.language.models.loading import LanguageModel
from advreg.module_modes import eval_mode


def generate(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 16,
    delta: Tensor | None = None,
    suffix: Tensor | None = None,
    system: str | None = None,
) -> list[str]:
    """Answer prompts with the likeliest token each time.

    Args:
        lm: the model; it runs in eval mode and without gradients.
        prompts: the user's words.
        max_new_tokens: length of the longest answer.
        batch_size: prompts at a time.
        delta: ``(B, P, D)``, added to the embeddings of each prompt's own tokens.
        suffix: ``(S, D)`` embeddings that follow every user's words, or ``(B, S, D)``.
        system: the system's words; what the template says by itself if None.

    Returns:
        The answers, without special tokens; an answer may be empty.

    Raises:
        ConfigError: a number below 1.

    Example:
        >>> generate(None, [], max_new_tokens=0)
        Traceback (most recent call last):
        advreg.errors.ConfigError: max_new_tokens is 0 and batch_size 16; give at least 1
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise ConfigError(f"max_new_tokens is {max_new_tokens} and batch_size {batch_size}; give at least 1")
    soft = None if suffix is None else suffix.expand(len(prompts), *suffix.shape[-2:])
    extra = 0 if soft is None else soft.shape[1]
    answers: list[str] = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        encoded = encode(lm, prompts[part], system=system, room=max(lm.context // 4, max_new_tokens + extra))
        points, mask = prepare_inputs(
            lm, encoded, None if delta is None else delta[part], None if soft is None else soft[part]
        )
        answers += decode_completions(lm, continue_greedily(lm, points, mask, max_new_tokens))
    return answers


def prepare_inputs(
    lm: LanguageModel, encoded: Encoded, delta: Tensor | None, suffix: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return embeddings ``(B, T, D)`` and mask ``(B, T)`` of a batch with delta added and a soft suffix inserted."""
    if suffix is None:
        return perturb_embeddings(lm, encoded, delta), encoded.mask
    longer, slots = open_suffix_slots(encoded, suffix.shape[1])
    points = perturb_embeddings(lm, longer, delta)
    return torch.where(slots[..., None], scatter_rows(suffix, slots).to(points.dtype), points), longer.mask


def open_suffix_slots(encoded: Encoded, count: int) -> tuple[Encoded, Tensor]:
    """Open places after each user's words.

    Args:
        encoded: the batch.
        count: how many places.

    Returns:
        The longer batch, whose new places hold some token and are nobody's words, and marks of them ``(B, T + count)``.

    Raises:
        DataError: an example without user's words, so with no place after them.
    """
    if not bool(encoded.content.any(1).all()):
        raise DataError("a prompt is empty, so nothing can follow it; give at least one word")
    length = encoded.ids.shape[1]
    column = torch.arange(length + count, device=encoded.ids.device).expand(len(encoded), -1)
    at = (torch.arange(length, device=encoded.ids.device) * encoded.content).amax(1, keepdim=True) + 1
    slots = (column >= at) & (column < at + count)
    source = torch.where(column < at, column, (column - count).clamp(min=0))
    ids, mask, content, answer = (
        part.gather(1, source) for part in (encoded.ids, encoded.mask, encoded.content, encoded.answer)
    )
    return Encoded(ids, mask | slots, content & ~slots, answer & ~slots), slots


@torch.no_grad()
def continue_greedily(lm: LanguageModel, points: Tensor, mask: Tensor, max_new_tokens: int) -> Tensor:
    """Return the tokens that follow embeddings, ``(B, N)``, padded after each one's end.

    Args:
        lm: the model.
        points: ``(B, T, D)``.
        mask: ``(B, T)``.
        max_new_tokens: the largest ``N``.
    """
    stops = torch.tensor(sorted(stop_ids(lm)), device=points.device)
    done = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    tokens: list[Tensor] = []
    with eval_mode(lm.network, freeze=True):
        state = forward(lm, points, mask, last=1, keep=True)
        while True:
            best = state.logits[:, -1].argmax(-1)
            tokens.append(torch.where(done, pad_id(lm), best))
            done = done | torch.isin(best, stops)
            if len(tokens) == max_new_tokens or bool(done.all()):
                return torch.stack(tokens, 1)
            mask = torch.cat([mask, ~done[:, None]], 1)
            points = embed(lm, tokens[-1][:, None])
            state = forward(lm, points, mask, last=1, cache=cache_of(state))


def stop_ids(lm: LanguageModel) -> set[int]:
    """Return the tokens that end an answer: the template's end of turn, and what model and tokenizer call the end."""
    turn = lm.tokenizer(end_of_turn(lm), add_special_tokens=False)["input_ids"] if lm.tokenizer.chat_template else []
    said = getattr(getattr(lm.network, "generation_config", None), "eos_token_id", None)
    ends = said if isinstance(said, list) else [said]
    return {int(token) for token in [*turn[:1], *ends, lm.tokenizer.eos_token_id] if token is not None}


def decode_completions(lm: LanguageModel, tokens: Tensor) -> list[str]:
    """Return tokens ``(B, N)`` as text, each up to its end."""
    stops = stop_ids(lm)
    rows = [list(takewhile(lambda token: token not in stops, row)) for row in tokens.tolist()]
    texts: list[str] = lm.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts]

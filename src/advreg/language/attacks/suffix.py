"""Token suffixes in a conversation: their position, their allowed tokens, and whether their text tokenizes back to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advreg.errors import ConfigError
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import encode, prompt_lengths
from advreg.language.models.embeddings import CACHES, embed, forward
from advreg.language.models.loading import LanguageModel

_ATTENTION_LAYERS = {"DynamicLayer", "DynamicSlidingWindowLayer"}
"""Layers of a cache in transformers that hold keys and values alone."""


@dataclass(frozen=True)
class Frame:
    """The tokens of a request around its suffix, with the cache of the prefix.

    Attributes:
        request: the request.
        before: ids ``(T,)`` before the suffix.
        after: ids between the suffix and the answer.
        target: ids of the target answer.
        cache: key-value cache of ``before``, which every use copies; None where a copy for a batch is not possible, as
            with the states of linear attention.
    """

    request: HarmfulRequest
    before: Tensor
    after: Tensor
    target: Tensor
    cache: Any


def split_at_suffix(lm: LanguageModel, request: HarmfulRequest, words: str, system: str | None) -> tuple[Frame, Tensor]:
    """Return the tokens of a request around its suffix, and the tokens of the suffix.

    Args:
        lm: the model for the search.
        request: a request with target.
        words: text of the suffix.
        system: the system prompt; the chat template's default if None.

    Returns:
        The frame, and token ids ``(S,)``.

    Raises:
        ConfigError: the request is too long, or the tokenizer merges the suffix with it or does not restore its text.
    """
    _require_room(lm, request, words, system)
    prompt_only = encode(lm, [request.prompt], system=system)
    conversation = encode(lm, [f"{request.prompt} {words}"], [request.target], system=system, ended=False)
    ids, user_positions = conversation.ids[0], conversation.content[0].nonzero()[:, 0]
    count = len(user_positions) - int(prompt_only.content.sum())
    start, stop = int(user_positions[-count]) if count > 0 else 0, int(user_positions[-1]) + 1
    if count < 1 or append_suffix(lm, request, ids[start:stop]) != f"{request.prompt} {words}":
        raise ConfigError(
            f"the tokenizer of {lm.name} joins the suffix {words[:8]!r} with the request; use another model"
        )
    target = conversation.answer[0]
    before = ids[:start]
    with torch.no_grad():
        output = forward(lm, embed(lm, before[None]), torch.ones(1, start, device=lm.device), last=1, keep=True)
    return Frame(request, before, ids[stop:][~target[stop:]], ids[target], _copyable_cache(output)), ids[start:stop]


def _require_room(lm: LanguageModel, request: HarmfulRequest, words: str, system: str | None) -> None:
    """Raise unless the request with its suffix fits into the context, where three quarters are for the prompt."""
    (length,) = prompt_lengths(lm, [f"{request.prompt} {words}"], system)
    limit = lm.context - lm.context // 4
    if length > limit:
        raise ConfigError(
            f"request {request.id} takes {length} tokens with its suffix, and {lm.name} has room for {limit}; shorten it"
        )


def _copyable_cache(output: Any) -> Any:
    """Return the cache in the output of a network if it can be repeated for a batch, else None."""
    cache = next((output[name] for name in CACHES if name in output), None)
    kinds = {type(layer).__name__ for layer in getattr(cache, "layers", ())}
    return cache if kinds and kinds <= _ATTENTION_LAYERS else None


def append_suffix(lm: LanguageModel, request: HarmfulRequest, suffix: Tensor) -> str:
    """Return the text of a request followed by a suffix of tokens ``(S,)``."""
    text: str = lm.tokenizer.decode(suffix.tolist(), clean_up_tokenization_spaces=False)
    return f"{request.prompt} {text.strip()}"


def typeable_tokens(lm: LanguageModel) -> Tensor:
    """Return the ids of the tokens of printable ASCII that are not special: tokens that a user can type."""
    special = set(lm.tokenizer.all_special_ids) | set(lm.tokenizer.added_tokens_decoder)
    rows = len(lm.network.get_input_embeddings().weight)
    ids = [token for token in range(min(len(lm.tokenizer), rows)) if token not in special]
    texts = lm.tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    typeable = [token for token, text in zip(ids, texts, strict=True) if text and text.isascii() and text.isprintable()]
    return torch.tensor(typeable, device=lm.device)


def draw_candidates(
    suffix: Tensor, grad: Tensor, allowed: Tensor, width: int, topk: int, generator: torch.Generator
) -> Tensor:
    """Return suffixes that differ from ``suffix`` in one token, drawn from the ``topk`` of lowest gradient at its position.

    Args:
        suffix: token ids ``(S,)``.
        grad: gradient of the loss with respect to the one-hot tokens ``(S, V)``.
        allowed: ids of the tokens that a suffix may hold.
        width: number of draws.
        topk: tokens to draw from at each position.
        generator: generator of the draws.

    Returns:
        At most ``width`` suffixes ``(n, S)``, without duplicates.

    Example:
        >>> grad = torch.tensor([[0.0, -1.0, 1.0]])
        >>> draw_candidates(torch.tensor([0]), grad, torch.arange(3), 8, 1, torch.Generator().manual_seed(0)).tolist()
        [[1]]
    """
    best = allowed[(-grad[:, allowed]).topk(min(topk, len(allowed)), dim=1).indices]
    position = torch.randint(len(suffix), (width,), generator=generator).to(suffix.device)
    choice = torch.randint(best.shape[1], (width,), generator=generator).to(suffix.device)
    drawn = suffix.repeat(width, 1)
    drawn[torch.arange(width, device=suffix.device), position] = best[position, choice]
    unique: Tensor = torch.unique(drawn[(drawn != suffix).any(1)], dim=0)
    return unique


def keep_retokenizable(lm: LanguageModel, frame: Frame, suffixes: Tensor, system: str | None) -> Tensor:
    """Return the suffixes that the tokenizer restores from their text in the whole conversation.

    Args:
        lm: the model for the search.
        frame: the conversation around the suffix.
        suffixes: token ids ``(n, S)``.
        system: the system prompt; the chat template's default if None.

    Returns:
        ``(m, S)`` with ``m <= n``.
    """
    if not len(suffixes):
        return suffixes
    retokenized = encode(lm, [append_suffix(lm, frame.request, suffix) for suffix in suffixes], system=system)
    length = len(frame.before) + suffixes.shape[1] + len(frame.after)
    expected = torch.cat(
        [frame.before.expand(len(suffixes), -1), suffixes, frame.after.expand(len(suffixes), -1)],
        1,
    )
    if retokenized.ids.shape[1] < length:
        return suffixes[:0]
    restored = (retokenized.ids[:, -length:] == expected).all(1) & (retokenized.mask.sum(1) == length)
    return suffixes[restored]

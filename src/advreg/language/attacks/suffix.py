"""A suffix of real tokens inside a conversation: where it stands, which tokens may stand there, what survives being written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advreg.errors import ConfigError
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import encode
from advreg.language.models.embeddings import cache_of, embed, forward
from advreg.language.models.loading import LanguageModel


@dataclass(frozen=True)
class Frame:
    """One request as tokens around its suffix, with the cache of what stands before it.

    Attributes:
        request: the request.
        before, after, target: ids ``(T,)`` before the suffix, between suffix and answer, and of the answer.
        cache: of the places before; it is copied for each use, never carried on.
    """

    request: HarmfulRequest
    before: Tensor
    after: Tensor
    target: Tensor
    cache: Any


def split_at_suffix(lm: LanguageModel, request: HarmfulRequest, words: str, system: str | None) -> tuple[Frame, Tensor]:
    """Return a request cut into what stands before, after and behind its suffix, and the suffix's tokens.

    Raises:
        ConfigError: the tokenizer does not write the suffix back as it was.
    """
    plain = encode(lm, [request.prompt], system=system)
    whole = encode(lm, [f"{request.prompt} {words}"], [request.target], system=system, ended=False)
    ids, own = whole.ids[0], whole.content[0].nonzero()[:, 0]
    count = len(own) - int(plain.content.sum())
    start, stop = int(own[-count]) if count > 0 else 0, int(own[-1]) + 1
    if count < 1 or append_suffix(lm, request, ids[start:stop]) != f"{request.prompt} {words}":
        raise ConfigError(
            f"the tokenizer of {lm.name} joins the suffix {words[:8]!r} with the request; use another model"
        )
    target = whole.answer[0]
    before = ids[:start]
    with torch.no_grad():
        read = forward(lm, embed(lm, before[None]), torch.ones(1, start, device=lm.device), last=1, keep=True)
    return Frame(request, before, ids[stop:][~target[stop:]], ids[target], cache_of(read)), ids[start:stop]


def append_suffix(lm: LanguageModel, request: HarmfulRequest, suffix: Tensor) -> str:
    """Return a request's words followed by a suffix of tokens as text."""
    text: str = lm.tokenizer.decode(suffix.tolist(), clean_up_tokenization_spaces=False)
    return f"{request.prompt} {text.strip()}"


def typeable_tokens(lm: LanguageModel) -> Tensor:
    """Return the ids of tokens that are printable ASCII and not special: what anybody can type."""
    special = set(lm.tokenizer.all_special_ids) | set(lm.tokenizer.added_tokens_decoder)
    ids = [token for token in range(len(lm.tokenizer)) if token not in special]
    texts = lm.tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    fine = [token for token, text in zip(ids, texts, strict=True) if text and text.isascii() and text.isprintable()]
    return torch.tensor(fine, device=lm.device)


def draw_candidates(
    suffix: Tensor, grad: Tensor, allowed: Tensor, width: int, topk: int, generator: torch.Generator
) -> Tensor:
    """Return suffixes ``(width, S)`` that differ from one by a token, drawn from the most promising at its position."""
    best = allowed[(-grad[:, allowed]).topk(min(topk, len(allowed)), dim=1).indices]
    position = torch.randint(len(suffix), (width,), generator=generator).to(suffix.device)
    choice = torch.randint(best.shape[1], (width,), generator=generator).to(suffix.device)
    drawn = suffix.repeat(width, 1)
    drawn[torch.arange(width, device=suffix.device), position] = best[position, choice]
    once: Tensor = torch.unique(drawn[(drawn != suffix).any(1)], dim=0)
    return once


def keep_retokenizable(lm: LanguageModel, frame: Frame, drawn: Tensor, system: str | None) -> Tensor:
    """Return the suffixes whose text, in the whole conversation, comes back as the same tokens."""
    again = encode(lm, [append_suffix(lm, frame.request, suffix) for suffix in drawn], system=system)
    length = len(frame.before) + drawn.shape[1] + len(frame.after)
    wanted = torch.cat(
        [frame.before.expand(len(drawn), -1), drawn, frame.after.expand(len(drawn), -1)],
        1,
    )
    if again.ids.shape[1] < length:
        return drawn[:0]
    same = (again.ids[:, -length:] == wanted).all(1) & (again.mask.sum(1) == length)
    return drawn[same]

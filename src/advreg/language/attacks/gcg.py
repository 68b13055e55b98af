"""Greedy coordinate gradient: a suffix of real tokens, found by swapping those whose gradient promises most."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advreg.errors import ConfigError
from advreg.language.attacks.embedding import measure_answer_nll
from advreg.language.attacks.probe_sampling import sample_probes
from advreg.language.attacks.result import LanguageAttackResult, count_model_passes, require_targets
from advreg.language.attacks.suffix import (
    Frame,
    append_suffix,
    draw_candidates,
    keep_retokenizable,
    split_at_suffix,
    typeable_tokens,
)
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded, encode
from advreg.language.models.embeddings import answer_nll, answer_span, answer_tokens_nll, embed, forward
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel
from advreg.module_modes import eval_mode
from advreg.runtime import derived_seed

ScoredSuffixes = list[tuple[float, Tensor]]
"""Suffixes with their losses, best first."""


@dataclass(frozen=True)
class GcgSearch:
    """How suffixes are searched.

    Attributes:
        steps, width, topk: steps, candidates a step, and tokens to choose from at each position.
        buffer: suffixes kept; a step starts at the best.
        mellowmax: sharpness of the loss over the target's tokens; their mean if None.
        batch_size: candidates at a time.
        draft: a smaller model that sorts the candidates first, or None.
    """

    steps: int
    width: int
    topk: int
    buffer: int
    mellowmax: float | None
    batch_size: int
    draft: LanguageModel | None


def gcg(
    lm: LanguageModel,
    requests: Sequence[HarmfulRequest],
    *,
    tokens: int = 20,
    steps: int = 100,
    width: int = 128,
    topk: int = 256,
    buffer: int = 4,
    mellowmax: float | None = None,
    draft: LanguageModel | None = None,
    seed: int = 0,
    max_new_tokens: int = 48,
    batch_size: int = 32,
    system: str | None = None,
    judge: LanguageModel | None = None,
) -> LanguageAttackResult:
    """Follow each request by a suffix of text that makes its target likely.

    At each step the gradient of the loss by the one-hot of every suffix token ranks the swaps of one token; ``width`` of the
    best are drawn, those whose text does not come back as the same tokens are dropped, and the rest are tried. What stands
    before the suffix is read once (prefix cache).

    Args:
        lm: the model that is searched; a copy in bfloat16 may do.
        requests: requests with targets.
        tokens: words of the first suffix, exclamation marks; a tokenizer may need more than one token for each.
        steps: steps for each request.
        width: candidates drawn a step.
        topk: tokens drawn from at each position.
        buffer: suffixes kept, the worst of which gives way to a better one (faster GCG's attack buffer).
        mellowmax: take ``log(mean(exp(a nll))) / a`` over the target's tokens, from their mean (0) to their worst; None is 0.
        draft: a smaller model that sorts the candidates first (probe sampling); what it is asked is not counted.
        seed: of the draws; each request has its own.
        max_new_tokens: length of the longest completion.
        batch_size: candidates at a time.
        system: the system's words; what the chat template says by itself if None.
        judge: the original, in float32, whose completions and losses count; ``lm`` itself if None.

    Returns:
        One completion for each request; ``prompts`` holds the words with their suffix, ``loss`` the mean NLL of the whole text.

    Raises:
        ConfigError: a number below 1, or a tokenizer that does not keep the suffix.
        DataError: a request without target.

    Reference: Zou et al. 2023; Zhao et al. 2024 for probe sampling; Thompson and Sklar 2024 for mellowmax and the buffer.
    """
    if min(tokens, width, topk, buffer, batch_size) < 1 or steps < 0 or (mellowmax is not None and mellowmax <= 0):
        given = f"tokens {tokens}, width {width}, topk {topk}, buffer {buffer}, steps {steps}, mellowmax {mellowmax}"
        raise ConfigError(f"the search has {given}; give at least 1 of each, steps >= 0 and mellowmax > 0 or None")
    original = judge or lm
    how = GcgSearch(steps, width, topk, buffer, mellowmax, batch_size, draft)
    with count_model_passes(lm, judge) as spent:
        allowed = typeable_tokens(lm)
        texts = [
            search_suffix(lm, request, how, tokens=tokens, seed=seed, system=system, allowed=allowed)
            for request in require_targets(requests)
        ]
        encoded = [
            encode(original, [text], [request.target], system=system, ended=False)
            for text, request in zip(texts, requests, strict=True)
        ]
        loss = [value for each in encoded for value in measure_answer_nll(original, each, None)]
        said = generate(original, texts, max_new_tokens=max_new_tokens, system=system)
    return LanguageAttackResult("gcg", texts, [[text] for text in said], spent.forwards, spent.backwards, loss)


def search_suffix(
    lm: LanguageModel,
    request: HarmfulRequest,
    how: GcgSearch,
    *,
    tokens: int,
    seed: int,
    system: str | None,
    allowed: Tensor,
) -> str:
    """Return a request's words with the best suffix found."""
    generator = torch.Generator().manual_seed(derived_seed(seed, request.id))
    with eval_mode(lm.network, freeze=True):
        frame, suffix = split_at_suffix(lm, request, " ".join(["!"] * tokens), system)
        kept = [(float(suffix_losses(lm, frame, suffix[None], how)[0]), suffix)]
        for _ in range(how.steps):
            kept = _step(lm, frame, kept, how, system=system, allowed=allowed, generator=generator)
    return append_suffix(lm, request, kept[0][1])


def _step(
    lm: LanguageModel,
    frame: Frame,
    kept: ScoredSuffixes,
    how: GcgSearch,
    *,
    system: str | None,
    allowed: Tensor,
    generator: torch.Generator,
) -> ScoredSuffixes:
    """Return the best suffixes after one round of swaps."""
    grad = one_hot_gradient(lm, frame, kept[0][1], how)
    drawn = draw_candidates(kept[0][1], grad, allowed, how.width, how.topk, generator)
    fresh = keep_retokenizable(lm, frame, drawn, system)

    def loss(suffixes: Tensor) -> Tensor:
        return suffix_losses(lm, frame, suffixes, how)

    if how.draft is None:
        return merge_best(kept, fresh, loss(fresh), how.buffer)
    probed = sample_probes(lm, frame, fresh, loss, draft=how.draft, generator=generator, system=system)
    return merge_best(kept, *probed, how.buffer)


def _batch(frame: Frame, count: int) -> Encoded:
    """Return what follows the suffix as a batch, for the loss of the target."""
    ids = torch.cat([frame.after, frame.target]).expand(count, -1)
    answer = (torch.arange(ids.shape[1], device=ids.device) >= len(frame.after)).expand(count, -1)
    return Encoded(ids, torch.ones_like(answer), torch.zeros_like(answer), answer)


def cached_loss(lm: LanguageModel, frame: Frame, points: Tensor, how: GcgSearch) -> Tensor:
    """Return the loss ``(B,)`` of suffixes given as embeddings ``(B, S, D)``, on a copy of the cache before them."""
    batch = _batch(frame, len(points))
    cache = copy.deepcopy(frame.cache)
    cache.batch_repeat_interleave(len(points))
    whole = torch.cat([points, embed(lm, batch.ids)], 1)
    mask = torch.ones(len(points), len(frame.before) + whole.shape[1], dtype=torch.bool, device=points.device)
    return target_loss(forward(lm, whole, mask, last=answer_span(batch), cache=cache).logits, batch, how.mellowmax)


def target_loss(scores: Tensor, batch: Encoded, sharpness: float | None) -> Tensor:
    """Return the mean NLL of each example's target, or its mellowmax ``log(mean(exp(a nll))) / a``."""
    if sharpness is None:
        return answer_nll(scores, batch)
    each = answer_tokens_nll(scores, batch)
    marks = batch.answer[:, -each.shape[1] :]
    total = torch.logsumexp(torch.where(marks, sharpness * each, -torch.inf), 1)
    return (total - marks.sum(1).to(total).log()) / sharpness


@torch.no_grad()
def suffix_losses(lm: LanguageModel, frame: Frame, suffixes: Tensor, how: GcgSearch) -> Tensor:
    """Return the loss of suffixes of tokens ``(B, S)``: one forward each."""
    parts = [cached_loss(lm, frame, embed(lm, part), how) for part in torch.split(suffixes, how.batch_size)]
    return torch.cat(parts) if parts else torch.zeros(0)


def one_hot_gradient(lm: LanguageModel, frame: Frame, suffix: Tensor, how: GcgSearch) -> Tensor:
    """Return the gradient of the loss by the one-hot of each suffix token ``(S, V)``: one forward, one backward.

    The network's embedding of every token comes from its layer, which may scale: the rows of its weight may be others.
    """
    layer = lm.network.get_input_embeddings()
    with torch.enable_grad():
        points = embed(lm, suffix[None]).detach().requires_grad_()
        (grad,) = torch.autograd.grad(cached_loss(lm, frame, points, how).sum(), points)
    with torch.no_grad():
        table = embed(lm, torch.arange(len(layer.weight), device=lm.device))
        return grad[0] @ table.T


def merge_best(kept: ScoredSuffixes, suffixes: Tensor, values: Tensor, buffer: int) -> ScoredSuffixes:
    """Return the suffixes of lowest loss among those kept and tried, best first, each once; a NaN never enters."""
    fresh = [(value, suffix) for value, suffix in zip(values.tolist(), suffixes, strict=True) if not math.isnan(value)]
    seen: dict[tuple[int, ...], tuple[float, Tensor]] = {}
    for value, suffix in sorted([*kept, *fresh], key=lambda pair: pair[0]):
        seen.setdefault(tuple(suffix.tolist()), (value, suffix))
    return list(seen.values())[:buffer]

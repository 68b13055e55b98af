"""Greedy coordinate gradient: a suffix of real tokens, optimised by single swaps that the gradient ranks."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advreg._deprecation import renamed_options
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
from advreg.language.models.embeddings import ROWS, answer_nll, answer_span, answer_tokens_nll, embed, forward
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel
from advreg.module_modes import eval_mode
from advreg.runtime import derived_seed

ScoredSuffixes = list[tuple[float, Tensor]]
"""Pairs of loss and suffix ``(S,)``, lowest loss first."""


@dataclass(frozen=True)
class GcgSearch:
    """The settings of a suffix search.

    Attributes:
        steps: number of swaps.
        width: candidates drawn at each step.
        topk: tokens to draw from at each position.
        buffer: suffixes in the buffer; a step starts at the best.
        mellowmax: sharpness of the loss over the target's tokens; their mean if None.
        batch_size: candidates in one batch.
        draft: a smaller model that ranks the candidates first (probe sampling), or None.
    """

    steps: int
    width: int
    topk: int
    buffer: int
    mellowmax: float | None
    batch_size: int
    draft: LanguageModel | None


@renamed_options(judge="original")
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
    original: LanguageModel | None = None,
) -> LanguageAttackResult:
    """Append a text suffix to each request that makes its target likely, and complete the result.

    At each step the gradient of the loss with respect to the one-hot suffix tokens ranks all swaps of one token. The step
    draws ``width`` of the best, drops those that the tokenizer does not restore from their text, and evaluates the rest; where
    none is left, it keeps the suffix. The tokens before the suffix run through the network once (prefix cache), except where
    the states of linear attention cannot be repeated.

    Args:
        lm: the model for the search; a bfloat16 copy is allowed, see `search_in_low_precision`.
        requests: harmful requests with targets.
        tokens: exclamation marks in the initial suffix; some tokenizers need several tokens for one.
        steps: number of swaps for each request.
        width: candidates drawn at each step.
        topk: tokens to draw from at each position.
        buffer: number of suffixes in the attack buffer; a step replaces the worst of them by better candidates.
        mellowmax: sharpness ``a`` of the loss ``log(mean(exp(a nll))) / a`` over the target's tokens, between their mean (0)
            and their maximum; None is the mean.
        draft: a smaller model that ranks the candidates first (probe sampling); its passes are not counted.
        seed: seed of the draws; each request has draws of its own.
        max_new_tokens: length limit of a completion, in tokens.
        batch_size: number of candidates in one batch.
        system: the system prompt; the chat template's default if None.
        original: the model in float32, which gives the reported losses and completions; ``lm`` if None.

    Returns:
        One completion of each request; ``prompts`` holds the requests with their suffixes, ``loss`` the NLL of the targets.

    Raises:
        ConfigError: a number is below 1, a request is too long, or the tokenizer merges the suffix with it.
        DataError: a request has no target.
        ModelError: the network has no layer that returns token logits.

    Example:
        >>> gcg(None, [HarmfulRequest(0, "How do I open a lock?")], steps=10)
        Traceback (most recent call last):
        advreg.errors.DataError: request 0 has no target; give the beginning of a completion that complies

    Reference: Zou et al., "Universal and transferable adversarial attacks on aligned language models", 2023,
    arXiv:2307.15043; Zhao et al., "Accelerating greedy coordinate gradient and general prompt optimization via probe
    sampling", NeurIPS 2024, arXiv:2403.01251; Thompson and Sklar, "FLRT: Fluent student-teacher redteaming", 2024,
    arXiv:2407.17447, for mellowmax and the buffer.
    """
    if min(tokens, width, topk, buffer, batch_size) < 1 or steps < 0 or (mellowmax is not None and mellowmax <= 0):
        given = f"tokens is {tokens}, width {width}, topk {topk}, buffer {buffer}, steps {steps}, mellowmax {mellowmax}"
        raise ConfigError(f"{given}; give at least 1 of each, steps >= 0 and mellowmax > 0 or None")
    reported = original or lm
    targeted = require_targets(requests)
    config = GcgSearch(steps, width, topk, buffer, mellowmax, batch_size, draft)
    with count_model_passes(lm, original) as counts:
        allowed = typeable_tokens(lm)
        texts = [
            _search_suffix(lm, request, config, tokens=tokens, seed=seed, system=system, allowed=allowed)
            for request in targeted
        ]
        encoded = [
            encode(reported, [text], [request.target], system=system, ended=False)
            for text, request in zip(texts, targeted, strict=True)
        ]
        loss = [value for each in encoded for value in measure_answer_nll(reported, each, None)]
        completions = generate(reported, texts, max_new_tokens=max_new_tokens, system=system)
    return LanguageAttackResult("gcg", texts, [[text] for text in completions], counts.forwards, counts.backwards, loss)


def _search_suffix(
    lm: LanguageModel,
    request: HarmfulRequest,
    config: GcgSearch,
    *,
    tokens: int,
    seed: int,
    system: str | None,
    allowed: Tensor,
) -> str:
    """Return the text of a request with the best suffix of its search."""
    generator = torch.Generator().manual_seed(derived_seed(seed, request.id))
    with eval_mode(lm.network, freeze=True):
        frame, suffix = split_at_suffix(lm, request, " ".join(["!"] * tokens), system)
        scored = [(float(suffix_losses(lm, frame, suffix[None], config)[0]), suffix)]
        for _ in range(config.steps):
            scored = _step(lm, frame, scored, config, system=system, allowed=allowed, generator=generator)
    return append_suffix(lm, request, scored[0][1])


def _step(
    lm: LanguageModel,
    frame: Frame,
    scored: ScoredSuffixes,
    config: GcgSearch,
    *,
    system: str | None,
    allowed: Tensor,
    generator: torch.Generator,
) -> ScoredSuffixes:
    """Return the best suffixes after one round of swaps."""
    grad = one_hot_gradient(lm, frame, scored[0][1], config)
    drawn = draw_candidates(scored[0][1], grad, allowed, config.width, config.topk, generator)
    fresh = keep_retokenizable(lm, frame, drawn, system)

    def loss(suffixes: Tensor) -> Tensor:
        return suffix_losses(lm, frame, suffixes, config)

    if config.draft is None:
        return merge_best(scored, fresh, loss(fresh), config.buffer)
    probed = sample_probes(lm, frame, fresh, loss, draft=config.draft, generator=generator, system=system)
    return merge_best(scored, *probed, config.buffer)


def _batch(frame: Frame, count: int) -> Encoded:
    """Return the tokens after the suffix as a batch of ``count`` equal rows, for the loss of the target."""
    ids = torch.cat([frame.after, frame.target]).expand(count, -1)
    answer = (torch.arange(ids.shape[1], device=ids.device) >= len(frame.after)).expand(count, -1)
    return Encoded(ids, torch.ones_like(answer), torch.zeros_like(answer), answer)


def _cached_loss(lm: LanguageModel, frame: Frame, points: Tensor, config: GcgSearch) -> Tensor:
    """Return the loss ``(B,)`` of suffixes given as embeddings, on a copy of the prefix cache where there is one."""
    batch = _batch(frame, len(points))
    parts = [points, embed(lm, batch.ids)]
    cache = copy.deepcopy(frame.cache)
    if cache is None:
        parts = [embed(lm, frame.before.expand(len(points), -1)), *parts]
    else:
        cache.batch_repeat_interleave(len(points))
    embeddings = torch.cat(parts, 1)
    length = len(frame.before) + points.shape[1] + batch.ids.shape[1]
    mask = torch.ones(len(points), length, dtype=torch.bool, device=points.device)
    return target_loss(
        forward(lm, embeddings, mask, last=answer_span(batch), cache=cache).logits, batch, config.mellowmax
    )


def target_loss(scores: Tensor, batch: Encoded, sharpness: float | None) -> Tensor:
    """Return the mean NLL of each example's target, or its mellowmax ``log(mean(exp(a nll))) / a``.

    Args:
        scores: logits ``(B, L, V)`` of the last places.
        batch: tokens whose answer is the target.
        sharpness: ``a`` of mellowmax; the mean if None.

    Returns:
        ``(B,)``.

    Reference: Asadi and Littman, "An alternative softmax operator for reinforcement learning", ICML 2017, arXiv:1612.05628.
    """
    if sharpness is None:
        return answer_nll(scores, batch)
    each = answer_tokens_nll(scores, batch)
    marks = batch.answer[:, -each.shape[1] :]
    total = torch.logsumexp(torch.where(marks, sharpness * each, -torch.inf), 1)
    return (total - marks.sum(1).to(total).log()) / sharpness


@torch.no_grad()
def suffix_losses(lm: LanguageModel, frame: Frame, suffixes: Tensor, config: GcgSearch) -> Tensor:
    """Return the loss of token suffixes: one forward each.

    Args:
        lm: the model for the search.
        frame: the conversation around the suffix.
        suffixes: token ids ``(B, S)``.
        config: settings of the search.

    Returns:
        ``(B,)``.
    """
    if not len(suffixes):
        return torch.zeros(0)
    parts = [_cached_loss(lm, frame, embed(lm, part), config) for part in torch.split(suffixes, config.batch_size)]
    return torch.cat(parts)


def one_hot_gradient(lm: LanguageModel, frame: Frame, suffix: Tensor, config: GcgSearch) -> Tensor:
    """Return the gradient of the loss with respect to the one-hot suffix tokens: one forward, one backward.

    The token embeddings are computed by the network's layer, because some layers scale the rows of their weight.

    Args:
        lm: the model for the search.
        frame: the conversation around the suffix.
        suffix: token ids ``(S,)``.
        config: settings of the search.

    Returns:
        ``(S, V)``.
    """
    layer = lm.network.get_input_embeddings()
    with torch.enable_grad():
        points = embed(lm, suffix[None]).detach().requires_grad_()
        (grad,) = torch.autograd.grad(_cached_loss(lm, frame, points, config).sum(), points)
    with torch.no_grad():
        ids = torch.arange(len(layer.weight), device=lm.device)
        return torch.cat([grad[0] @ embed(lm, part).T for part in torch.split(ids, ROWS)], 1)


def merge_best(scored: ScoredSuffixes, suffixes: Tensor, values: Tensor, buffer: int) -> ScoredSuffixes:
    """Return the ``buffer`` suffixes of lowest loss, without duplicates and without NaN losses.

    Args:
        scored: suffixes in the buffer.
        suffixes: new token suffixes ``(n, S)``.
        values: their losses ``(n,)``.
        buffer: length of the result.

    Returns:
        Pairs of loss and suffix, lowest loss first.

    Example:
        >>> merge_best([(0.5, torch.tensor([1]))], torch.tensor([[2], [3]]), torch.tensor([0.25, 0.75]), 2)
        [(0.25, tensor([2])), (0.5, tensor([1]))]
    """
    fresh = [(value, suffix) for value, suffix in zip(values.tolist(), suffixes, strict=True) if not math.isnan(value)]
    unique: dict[tuple[int, ...], tuple[float, Tensor]] = {}
    for value, suffix in sorted([*scored, *fresh], key=lambda pair: pair[0]):
        unique.setdefault(tuple(suffix.tolist()), (value, suffix))
    return list(unique.values())[:buffer]

"""Tokens as points that can be moved: embeddings, what is added to the user's own, and what the answer then costs."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.errors import DataError
from advreg.language.models.chat import Encoded
from advreg.language.models.loading import LanguageModel

_ROWS = 8192
_CACHES = ("cache", "past_key_values")
"""What transformers calls the cache, newest name first."""


def embed(lm: LanguageModel, ids: Tensor) -> Tensor:
    """Return the embeddings of tokens as the network makes them, by calling its layer: some scale inside it.

    Args:
        lm: the model.
        ids: ``(B, T)``.

    Returns:
        ``(B, T, D)``.
    """
    points: Tensor = lm.network.get_input_embeddings()(ids)
    return points


def embedding_norm(lm: LanguageModel) -> float:
    """Return the mean l2 norm of the embeddings over the vocabulary: the unit in which eps is given."""
    layer = lm.network.get_input_embeddings()
    with torch.no_grad():
        ids = torch.arange(len(layer.weight), device=lm.device)
        norms = [embed(lm, part).double().norm(dim=-1) for part in torch.split(ids, _ROWS)]
    return float(torch.cat(norms).mean())


def scatter_rows(rows: Tensor, where: Tensor) -> Tensor:
    """Return row ``j`` of each example at the j-th place that is marked in it, and zeros elsewhere.

    Args:
        rows: ``(B, P, D)``, with at least as many rows as places.
        where: marks ``(B, T)``.

    Returns:
        ``(B, T, D)``.

    Raises:
        DataError: more places than rows.

    Example:
        >>> scatter_rows(torch.tensor([[[5.0], [6.0]]]), torch.tensor([[False, True, True]])).flatten().tolist()
        [0.0, 5.0, 6.0]
    """
    most = int(where.sum(1).max())
    if most > rows.shape[1] or len(rows) != len(where):
        given = f"{len(rows)} x {rows.shape[1]}"
        raise DataError(f"delta has {given} rows for {len(where)} examples with up to {most} tokens; give one a token")
    if most == 0:
        return rows.new_zeros(*where.shape, rows.shape[-1])
    order = (where.cumsum(1) - 1).clamp(min=0)
    placed = rows.gather(1, order[..., None].expand(-1, -1, rows.shape[-1]))
    return torch.where(where[..., None], placed, torch.zeros_like(placed))


def scatter_to_user_tokens(delta: Tensor, encoded: Encoded) -> Tensor:
    """Return a perturbation of the user's words at the places where they stand in this batch.

    Row ``j`` belongs to the j-th of the user's tokens, so one delta fits the same prompt with any answer and any padding.

    Args:
        delta: ``(B, P, D)``.
        encoded: the batch.

    Returns:
        ``(B, T, D)``, zero off the user's words.
    """
    return scatter_rows(delta, encoded.content)


def perturb_embeddings(lm: LanguageModel, encoded: Encoded, delta: Tensor | None = None) -> Tensor:
    """Return the embeddings of a batch, the user's moved by delta: added in delta's precision, then in the network's.

    Args:
        lm: the model.
        encoded: the batch.
        delta: ``(B, P, D)``, or None.

    Returns:
        ``(B, T, D)``.
    """
    points = embed(lm, encoded.ids)
    return points if delta is None else (points + scatter_to_user_tokens(delta, encoded)).to(points.dtype)


def forward(
    lm: LanguageModel, points: Tensor, mask: Tensor, *, last: int | None = None, cache: Any = None, keep: bool = False
) -> Any:
    """Run the network on embeddings, positions counted from each example's first token.

    Args:
        lm: the model.
        points: ``(B, T, D)``; the last places only, where a cache holds those before.
        mask: of all places, those in the cache too.
        last: how many of the last places want logits, where the network can leave the others out; all if None.
        cache: what `cache_of` returned for the places before; it grows.
        keep: whether a cache is wanted of these places.

    Returns:
        What the network returns.
    """
    known = inspect.signature(_unwrap_adapter(lm.network).forward).parameters
    places = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -points.shape[1] :]
    wanted = {
        "position_ids": places,
        "logits_to_keep": _logits_to_keep(points, last),
        "use_cache": keep or cache is not None,
    }
    held = {} if cache is None else {next(name for name in _CACHES if name in known): cache}
    extra = {name: value for name, value in wanted.items() if name in known}
    return lm.network(inputs_embeds=points, attention_mask=mask.long(), **extra, **held)


def _logits_to_keep(points: Tensor, last: int | None) -> Tensor | int:
    """Return the last places by number: cut out by a slice they are strided, and bfloat16 multiplies such 30 times slower."""
    length = points.shape[1]
    return 0 if last is None or last >= length else torch.arange(length - last, length, device=points.device)


def cache_of(output: Any) -> Any:
    """Return the cache in what a network returned, under either of the names it has had."""
    return next(output[name] for name in _CACHES if name in output)


def _unwrap_adapter(network: Any) -> nn.Module:
    """Return the network itself, which says what it takes; peft's wrapper takes anything."""
    inner: nn.Module = network.get_base_model() if hasattr(network, "get_base_model") else network
    return inner


def logits(lm: LanguageModel, encoded: Encoded, delta: Tensor | None = None, *, last: int | None = None) -> Tensor:
    """Return what a model makes of a batch with its user's words moved; no cache is kept.

    Args:
        lm: the model.
        encoded: the batch.
        delta: ``(B, P, D)``, or None for the words as they are.
        last: how many of the last places are wanted; all if None.

    Returns:
        ``(B, T, V)``, or ``(B, last, V)`` where the network can leave the others out; ``(B, K)`` of a classifier.
    """
    scores: Tensor = forward(lm, perturb_embeddings(lm, encoded, delta), encoded.mask, last=last).logits
    return scores


def answer_tokens_nll(logits: Tensor, encoded: Encoded) -> Tensor:
    """Return ``-log p(token | what stands before)`` of each of the answer's tokens, and zero elsewhere.

    Args:
        logits: ``(B, L, V)`` of the batch's last ``L`` places, which hold the answers and one place before.
        encoded: the batch.

    Returns:
        ``(B, L)``, in float32 or better.
    """
    length = min(logits.shape[1], encoded.ids.shape[1])  # more where places were opened before the answers
    ids, answer, logits = encoded.ids[:, -length:], encoded.answer[:, -length:], logits[:, -length:]
    said, wanted = logits[:, :-1][answer[:, 1:]], ids[:, 1:][answer[:, 1:]]
    exact = said if said.dtype in (torch.float32, torch.float64) else said.float()
    losses = exact.new_zeros(answer.shape)
    return losses.masked_scatter(answer & _after_first(answer), F.cross_entropy(exact, wanted, reduction="none"))


def _after_first(answer: Tensor) -> Tensor:
    """Mark all columns but the first, whose token nothing stands before."""
    return torch.arange(answer.shape[1], device=answer.device) > 0


def answer_nll(logits: Tensor, encoded: Encoded) -> Tensor:
    """Return the mean of ``-log p`` over each example's answer tokens.

    Args:
        logits: ``(B, L, V)``, as for `answer_tokens_nll`.
        encoded: the batch, with answers.

    Returns:
        ``(B,)``.
    """
    return answer_tokens_nll(logits, encoded).sum(1) / encoded.answer.sum(1).clamp(min=1)


def answer_span(encoded: Encoded) -> int:
    """Return how many of the last places the answers take, and one before: what `logits` needs as ``last``."""
    return min(int(encoded.answer.sum(1).max()) + 1, encoded.ids.shape[1])

"""Embeddings: perturbations of the user's tokens, forward passes on embeddings, and the NLL of the answer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.errors import DataError
from advreg.language.models.chat import Encoded
from advreg.language.models.loading import LanguageModel

ROWS = 8192
"""Rows of an embedding table that are computed at a time."""
CACHES = ("cache", "past_key_values")
"""Names of the cache in transformers, newest first."""


def embed(lm: LanguageModel, ids: Tensor) -> Tensor:
    """Return the embeddings of tokens, computed by the network's layer, because some layers scale their weight.

    Args:
        lm: the model.
        ids: token ids ``(B, T)``.

    Returns:
        ``(B, T, D)``.
    """
    points: Tensor = lm.network.get_input_embeddings()(ids)
    return points


@contextmanager
def replace_embeddings(lm: LanguageModel, points: Tensor) -> Iterator[None]:
    """Give a network these embeddings in its first forward inside the block, whatever the tokens there.

    ``generate`` of transformers takes embeddings for some architectures only, and tokens for all.

    Args:
        lm: the model.
        points: embeddings of the prompt ``(B, T, D)``.
    """
    waiting = [points]

    def swap(_layer: nn.Module, _args: object, output: Tensor) -> Tensor:
        return waiting.pop().to(output.dtype) if waiting else output

    handle = lm.network.get_input_embeddings().register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def embedding_norm(lm: LanguageModel) -> float:
    """Return the mean l2 norm of the embeddings over the vocabulary, the unit of ``eps``."""
    layer = lm.network.get_input_embeddings()
    with torch.no_grad():
        ids = torch.arange(len(layer.weight), device=lm.device)
        norms = [embed(lm, part).double().norm(dim=-1) for part in torch.split(ids, ROWS)]
    return float(torch.cat(norms).mean())


def scatter_rows(rows: Tensor, where: Tensor) -> Tensor:
    """Return row ``j`` of each example at its j-th marked place, and zeros elsewhere.

    Args:
        rows: ``(B, P, D)``.
        where: mask ``(B, T)`` with at most ``P`` marks in each example.

    Returns:
        ``(B, T, D)``.

    Raises:
        DataError: an example has more than ``P`` marks, or the numbers of examples differ.

    Example:
        >>> scatter_rows(torch.tensor([[[5.0], [6.0]]]), torch.tensor([[False, True, True]])).flatten().tolist()
        [0.0, 5.0, 6.0]
    """
    longest = int(where.sum(1).max())
    if longest > rows.shape[1] or len(rows) != len(where):
        given = f"{len(rows)} x {rows.shape[1]}"
        raise DataError(
            f"delta has {given} rows for {len(where)} examples with up to {longest} tokens; give one row for each token"
        )
    if longest == 0:
        return rows.new_zeros(*where.shape, rows.shape[-1])
    order = (where.cumsum(1) - 1).clamp(min=0)
    placed = rows.gather(1, order[..., None].expand(-1, -1, rows.shape[-1]))
    return torch.where(where[..., None], placed, torch.zeros_like(placed))


def scatter_to_user_tokens(delta: Tensor, encoded: Encoded) -> Tensor:
    """Return a perturbation of the user's tokens at their positions in a batch.

    Row ``j`` belongs to the j-th user token, so one perturbation fits a prompt with any answer and any padding.

    Args:
        delta: ``(B, P, D)``.
        encoded: the batch.

    Returns:
        ``(B, T, D)``, zero outside the user's tokens.

    Raises:
        DataError: an example has more than ``P`` user tokens.
    """
    return scatter_rows(delta, encoded.content)


def perturb_embeddings(lm: LanguageModel, encoded: Encoded, delta: Tensor | None = None) -> Tensor:
    """Return the embeddings of a batch with a perturbation of the user's tokens, added in the precision of ``delta``.

    Args:
        lm: the model.
        encoded: the batch.
        delta: ``(B, P, D)``, or None for no perturbation.

    Returns:
        ``(B, T, D)`` in the dtype of the network.

    Raises:
        DataError: an example has more than ``P`` user tokens.
    """
    points = embed(lm, encoded.ids)
    return points if delta is None else (points + scatter_to_user_tokens(delta, encoded)).to(points.dtype)


def forward(
    lm: LanguageModel, points: Tensor, mask: Tensor, *, last: int | None = None, cache: Any = None, keep: bool = False
) -> Any:
    """Run the network on embeddings; positions count from each example's first token.

    Args:
        lm: the model.
        points: embeddings ``(B, T, D)``; with a cache, those of the new tokens only.
        mask: ``(B, T')``, True on tokens and False on padding, with the tokens of the cache.
        last: number of last positions with logits, if the network can omit the others; all if None.
        cache: the cache of the earlier tokens, from an output with ``keep``; it is extended in place.
        keep: whether the output includes a cache.

    Returns:
        The output of the network.
    """
    accepted = inspect.signature(_unwrap_adapter(lm.network).forward).parameters
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -points.shape[1] :]
    wanted = {
        "position_ids": positions,
        "logits_to_keep": _logits_to_keep(points, last),
        "use_cache": keep or cache is not None,
    }
    cache_argument = {} if cache is None else {next(name for name in CACHES if name in accepted): cache}
    extra = {name: value for name, value in wanted.items() if name in accepted}
    return lm.network(inputs_embeds=points, attention_mask=mask.long(), **extra, **cache_argument)


def _logits_to_keep(points: Tensor, last: int | None) -> Tensor | int:
    """Return the last positions as indices: a slice is strided, and a bfloat16 product with it is 30 times slower."""
    length = points.shape[1]
    return 0 if last is None or last >= length else torch.arange(length - last, length, device=points.device)


def _unwrap_adapter(network: Any) -> nn.Module:
    """Return the network inside peft's wrapper, whose signature lists the arguments."""
    inner: nn.Module = network.get_base_model() if hasattr(network, "get_base_model") else network
    return inner


def logits(lm: LanguageModel, encoded: Encoded, delta: Tensor | None = None, *, last: int | None = None) -> Tensor:
    """Return the logits of a batch with a perturbation of the user's tokens.

    Args:
        lm: the model.
        encoded: the batch.
        delta: ``(B, P, D)``, or None for no perturbation.
        last: number of last positions with logits; all if None.

    Returns:
        ``(B, T, V)``, or ``(B, last, V)`` if the network can omit the others; ``(B, K)`` of a classifier.

    Raises:
        DataError: an example has more than ``P`` user tokens.
    """
    scores: Tensor = forward(lm, perturb_embeddings(lm, encoded, delta), encoded.mask, last=last).logits
    return scores


def answer_tokens_nll(logits: Tensor, encoded: Encoded) -> Tensor:
    """Return ``-log p(token | earlier tokens)`` of each answer token, and zero at other positions.

    Args:
        logits: ``(B, L, V)`` of the last ``L`` positions, which include the answers and one position before them.
        encoded: the batch.

    Returns:
        ``(B, L)`` in float32 or better.
    """
    scores, wanted = answer_scores(logits, encoded)
    return place_at_answers(F.cross_entropy(scores, wanted, reduction="none"), logits, encoded)


def answer_scores(logits: Tensor, encoded: Encoded) -> tuple[Tensor, Tensor]:
    """Return the logits ``(M, V)`` that predict the answers' tokens, in float32 or better, and these tokens ``(M,)``.

    Args:
        logits: ``(B, L, V)`` of the last ``L`` positions, which include the answers and one position before them.
        encoded: the batch.
    """
    ids, answer = _last_columns(encoded.ids, logits), _last_columns(encoded.answer, logits)[:, 1:]
    scores = logits[:, -ids.shape[1] :][:, :-1][answer]
    return scores.to(torch.promote_types(scores.dtype, torch.float32)), ids[:, 1:][answer]


def place_at_answers(values: Tensor, logits: Tensor, encoded: Encoded) -> Tensor:
    """Return values ``(M,)`` of `answer_scores` at the positions of their tokens ``(B, L)``, and zero elsewhere.

    Args:
        values: one for each token of the answers.
        logits: those of `answer_scores`, for their length.
        encoded: the batch.
    """
    answer = _last_columns(encoded.answer, logits)
    return values.new_zeros(answer.shape).masked_scatter(answer & _after_first(answer), values)


def _last_columns(columns: Tensor, logits: Tensor) -> Tensor:
    """Return the last columns of ``(B, T)`` that have logits; these are more if a suffix was inserted before the answers."""
    return columns[:, -min(logits.shape[1], columns.shape[1]) :]


def _after_first(answer: Tensor) -> Tensor:
    """Return a mask of all columns but the first, whose token has no earlier token."""
    return torch.arange(answer.shape[1], device=answer.device) > 0


def answer_nll(logits: Tensor, encoded: Encoded) -> Tensor:
    """Return the mean of ``-log p`` over each example's answer tokens.

    Args:
        logits: ``(B, L, V)`` of the last ``L`` positions, which include the answers and one position before them.
        encoded: the batch, with answers.

    Returns:
        ``(B,)``.
    """
    return answer_tokens_nll(logits, encoded).sum(1) / encoded.answer.sum(1).clamp(min=1)


def answer_span(encoded: Encoded) -> int:
    """Return the length of the longest answer plus one: the argument ``last`` of `logits` for `answer_nll`."""
    return min(int(encoded.answer.sum(1).max()) + 1, encoded.ids.shape[1])

"""The terms of adversarial training for language: pure functions of logits or losses, one number for each example."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.language.models.chat import Encoded
from advreg.language.models.embeddings import answer_scores, place_at_answers

TOWARD_CUTOFF, AWAY_CUTOFF = 0.5, 5.0
BEYOND_CUTOFF = 1e-3  # factor on a loss beyond its cutoff


def toward(nll: Tensor, cutoff: float = TOWARD_CUTOFF) -> Tensor:
    """Return the loss that makes a refusal likely; below the cutoff, its gradient is a thousandth.

    ``nll`` where ``nll >= cutoff``, else ``cutoff + nll / 1000``: a refusal that is likely enough must not become likelier at
    the cost of all other outputs.

    Args:
        nll: loss of the refusal ``(B,)``, in nats a token.
        cutoff: loss below which the refusal is likely enough.

    Returns:
        ``(B,)``.

    Reference: Xhonneux et al., "Efficient adversarial training in LLMs with continuous attacks", NeurIPS 2024.

    Example:
        >>> toward(torch.tensor([2.0, 0.25])).tolist() == torch.tensor([2.0, 0.50025]).tolist()
        True
    """
    return torch.where(nll < cutoff, cutoff + BEYOND_CUTOFF * nll, nll)


def away(nll: Tensor, cutoff: float = AWAY_CUTOFF) -> Tensor:
    """Return the loss that makes a harmful answer unlikely; beyond the cutoff, its gradient is a thousandth.

    ``-nll`` where ``nll <= cutoff``, else ``-cutoff - nll / 1000``; without the cutoff, nothing bounds the loss from below.

    Args:
        nll: loss of the harmful answer ``(B,)``, in nats a token.
        cutoff: loss above which the answer is unlikely enough.

    Returns:
        ``(B,)``.

    Reference: Xhonneux et al., "Efficient adversarial training in LLMs with continuous attacks", NeurIPS 2024.

    Example:
        >>> away(torch.tensor([2.0, 6.0])).tolist() == torch.tensor([-2.0, -5.006]).tolist()
        True
    """
    return torch.where(nll > cutoff, -cutoff - BEYOND_CUTOFF * nll, -nll)


def unlikelihood(logits: Tensor, encoded: Encoded, cutoff: float = AWAY_CUTOFF) -> Tensor:
    """Return ``mean_t -log(1 - p_t)`` over the tokens of each answer; tokens with an NLL above the cutoff count zero.

    Args:
        logits: ``(B, L, V)`` of the last ``L`` positions.
        encoded: the batch, with harmful answers.
        cutoff: NLL of a token above which it is unlikely enough.

    Returns:
        ``(B,)``, at least 0.

    Reference: Sheshadri et al., "Latent adversarial training improves robustness to persistent harmful behaviors in LLMs",
    2024, arXiv:2407.15549.
    """
    scores, wanted = answer_scores(logits, encoded)
    total = scores.logsumexp(-1)
    others = scores.scatter(1, wanted[:, None], -torch.inf).logsumexp(-1)
    nll = total - scores.gather(1, wanted[:, None]).squeeze(1)
    losses = torch.where(nll > cutoff, torch.zeros_like(nll), total - others)
    return place_at_answers(losses, logits, encoded).sum(1) / encoded.answer.sum(1).clamp(min=1)


def kl(reference: Tensor, logits: Tensor, where: Tensor | None = None) -> Tensor:
    """Return the KL divergence from a reference, ``mean_t sum_v p_v (log p_v - log q_v)``, p the reference and q the model.

    Args:
        reference: logits of ``p``, ``(B, V)``, or ``(B, T, V)`` with ``where``.
        logits: logits of ``q``, of the same shape.
        where: ``(B, T)`` bool, the positions that count.

    Returns:
        ``(B,)``, at least 0.

    Example:
        >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
        >>> round(kl(p, q).item(), 4)  # (log 2 + log 2/3) / 2
        0.1438
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    p, q = reference.to(exact).log_softmax(-1), logits.to(exact).log_softmax(-1)
    each = (p.exp() * (p - q)).sum(-1)
    return each if where is None else _masked_mean(each, where)


def symmetric_kl(logits: Tensor, other: Tensor, where: Tensor | None = None) -> Tensor:
    """Return the symmetric KL divergence, ``kl(p, q) + kl(q, p)``, by which SMART compares two outputs.

    Args:
        logits: logits ``(B, V)``, or ``(B, T, V)`` with ``where``.
        other: logits to compare with, of the same shape.
        where: ``(B, T)`` bool, the positions that count.

    Returns:
        ``(B,)``, at least 0.
    """
    return kl(logits, other, where) + kl(other, logits, where)


def _masked_mean(values: Tensor, where: Tensor) -> Tensor:
    """Return the mean over the marked positions of each row ``(B,)``; 0 for a row without any."""
    marked = torch.where(where, values, torch.zeros_like(values))
    return marked.sum(1) / where.sum(1).clamp_min(1)


def predicting_positions(answer: Tensor) -> Tensor:
    """Return the positions ``(B, T)`` with logits that predict a token of the answer: each is one before its token.

    Args:
        answer: ``(B, T)`` bool, the tokens of the answer.

    Example:
        >>> predicting_positions(torch.tensor([[False, False, True, True]])).tolist()
        [[False, True, True, False]]
    """
    return torch.cat([answer[:, 1:], torch.zeros_like(answer[:, :1])], 1)

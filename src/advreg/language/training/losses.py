"""The terms of adversarial training for language, as pure functions of logits or of losses: one number for each example."""

from __future__ import annotations

import torch
from torch import Tensor

TOWARD_CUTOFF, AWAY_CUTOFF = 0.5, 5.0
BEYOND = 1e-3  # what still counts beyond a cutoff


def toward(nll: Tensor, cutoff: float = TOWARD_CUTOFF) -> Tensor:
    """What pulls to a refusal: its loss, of which a thousandth is left once it is below the cutoff.

    ``nll`` where ``nll >= cutoff``, else ``nll / 1000``: a refusal that is likely enough is not made likelier at the cost of
    everything else.

    Args:
        nll: loss of the refusal ``(B,)``, in nats a token.
        cutoff: where it is good enough.

    Returns:
        ``(B,)``.

    Reference: Xhonneux et al., "Efficient adversarial training in LLMs with continuous attacks", NeurIPS 2024.

    Example:
        >>> toward(torch.tensor([2.0, 0.25])).tolist() == torch.tensor([2.0, 0.00025]).tolist()
        True
    """
    return torch.where(nll < cutoff, BEYOND * nll, nll)


def away(nll: Tensor, cutoff: float = AWAY_CUTOFF) -> Tensor:
    """What pushes from a harmful answer: minus its loss, of which beyond the cutoff the gradient is a thousandth.

    ``-min(nll, cutoff) - max(nll - cutoff, 0) / 1000``: continuous, and without it nothing bounds the loss from below.

    Args:
        nll: loss of the harmful answer ``(B,)``, in nats a token.
        cutoff: where it is unlikely enough.

    Returns:
        ``(B,)``.

    Reference: Xhonneux et al., "Efficient adversarial training in LLMs with continuous attacks", NeurIPS 2024.

    Example:
        >>> away(torch.tensor([2.0, 6.0])).tolist() == torch.tensor([-2.0, -5.001]).tolist()
        True
    """
    return -nll.clamp_max(cutoff) - BEYOND * (nll - cutoff).clamp_min(0.0)


def kl(reference: Tensor, logits: Tensor, where: Tensor | None = None) -> Tensor:
    """Divergence from a reference, ``mean_t sum_v p_v (log p_v - log q_v)``, p the reference and q the model.

    Args:
        reference, logits: ``(B, V)``, or ``(B, T, V)`` with ``where``.
        where: ``(B, T)`` bool, the positions that count.

    Returns:
        ``(B,)``, at least 0.

    Example:
        >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
        >>> round(kl(p, q).item(), 4)  # (log 2 + log 2/3) / 2
        0.1438
    """
    p, q = reference.float().log_softmax(-1), logits.float().log_softmax(-1)
    each = (p.exp() * (p - q)).sum(-1)
    return each if where is None else masked_mean(each, where)


def symmetric_kl(logits: Tensor, other: Tensor, where: Tensor | None = None) -> Tensor:
    """Divergence both ways, ``kl(p, q) + kl(q, p)``: SMART's measure of how far two answers are apart.

    Args:
        logits, other: ``(B, V)``, or ``(B, T, V)`` with ``where``.
        where: ``(B, T)`` bool, the positions that count.

    Returns:
        ``(B,)``, at least 0.
    """
    return kl(logits, other, where) + kl(other, logits, where)


def masked_mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean over the marked positions of each row, ``(B, T), (B, T) bool -> (B,)``; 0 for a row without any.

    Example:
        >>> masked_mean(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]])).tolist()
        [2.0]
    """
    kept = torch.where(where, values, torch.zeros_like(values))
    return kept.sum(1) / where.sum(1).clamp_min(1)


def predicting(answer: Tensor) -> Tensor:
    """Return the positions ``(B, T)`` whose logits predict an answer's token: each is one before it.

    Example:
        >>> predicting(torch.tensor([[False, False, True, True]])).tolist()
        [[False, True, True, False]]
    """
    return torch.cat([answer[:, 1:], torch.zeros_like(answer[:, :1])], 1)

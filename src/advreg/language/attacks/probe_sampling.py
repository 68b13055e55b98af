"""Probe sampling: a draft model ranks the candidates, and its agreement with the model on a few probes sets how many remain."""

from __future__ import annotations

import math
from collections.abc import Callable

import scipy  # loads scipy.stats, which takes a second, where it is used
import torch
from torch import Tensor

from advreg.language.attacks.suffix import Frame, append_suffix
from advreg.language.models.chat import encode
from advreg.language.models.embeddings import answer_nll, answer_span, logits
from advreg.language.models.loading import LanguageModel
from advreg.module_modes import eval_mode

_PROBED, _SHARE = 16, 8
"""The model evaluates one candidate in 16 as a probe, then at most one in 8: the two fractions of the paper."""


def sample_probes(
    lm: LanguageModel,
    frame: Frame,
    suffixes: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    draft: LanguageModel,
    generator: torch.Generator,
    system: str | None,
) -> tuple[Tensor, Tensor]:
    """Return the suffixes that the model evaluated, with their losses.

    With ``a`` the rank correlation of draft and model on the probes, mapped to [0, 1], the model evaluates ``(1 - a) n / 8``
    more suffixes, those of lowest draft loss, and at least one.

    Args:
        lm: the model, with the tokenizer of the suffixes.
        frame: the conversation around the suffix.
        suffixes: token ids ``(n, S)``.
        loss: suffixes ``(m, S)`` -> losses of the model ``(m,)``.
        draft: a smaller model with a tokenizer of its own.
        generator: generator that draws the probes.
        system: the system prompt; the chat template's default if None.

    Returns:
        Suffixes ``(m, S)`` and losses ``(m,)``.

    Example:
        >>> one, loss = torch.tensor([[5]]), lambda suffixes: torch.ones(len(suffixes))
        >>> sample_probes(None, None, one, loss, draft=None, generator=torch.Generator(), system=None)
        (tensor([[5]]), tensor([1.]))

    Reference: Zhao et al., "Accelerating greedy coordinate gradient and general prompt optimization via probe sampling",
    NeurIPS 2024, arXiv:2403.01251.
    """
    count = len(suffixes)
    if count < 2:
        return suffixes, loss(suffixes)
    estimate = _draft_loss(draft, frame, [append_suffix(lm, frame.request, suffix) for suffix in suffixes], system)
    order = torch.randperm(count, generator=generator)[: max(2, count // _PROBED)].to(suffixes.device)
    probe_losses = loss(suffixes[order])
    trust = _agreement(estimate[order].tolist(), probe_losses.tolist())
    remaining = estimate.clone()
    remaining[order] = torch.inf
    rest = remaining.argsort()[: min(max(1, round((1 - trust) * count / _SHARE)), count - len(order))]
    return suffixes[torch.cat([order, rest])], torch.cat([probe_losses, loss(suffixes[rest])])


def _agreement(estimates: list[float], losses: list[float]) -> float:
    """Return the rank correlation of draft and model, mapped to [0, 1]; 0.5 if it is undefined."""
    rank = float(scipy.stats.spearmanr(estimates, losses).statistic) if len(set(losses)) > 1 else 0.0
    return 0.5 if math.isnan(rank) else (1 + rank) / 2


@torch.no_grad()
def _draft_loss(draft: LanguageModel, frame: Frame, texts: list[str], system: str | None) -> Tensor:
    """Return the draft's mean NLL of the target after each text."""
    encoded = encode(draft, texts, [frame.request.target] * len(texts), system=system, ended=False)
    with eval_mode(draft.network, freeze=True):
        return answer_nll(logits(draft, encoded, last=answer_span(encoded)), encoded)

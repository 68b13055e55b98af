"""Probe sampling: a draft model sorts the candidates, and the model itself says on a few of them how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.stats import spearmanr
from torch import Tensor

from advreg.language.attacks.suffix import Frame, append_suffix
from advreg.language.models.chat import encode
from advreg.language.models.embeddings import answer_nll, answer_span, logits
from advreg.language.models.loading import LanguageModel
from advreg.module_modes import eval_mode

_PROBED, _SHARE = 16, 8
"""The model is asked about one candidate in 16 first, then about at most one in 8: the two shares of the paper."""


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
    """Return the suffixes that the model was asked about, and their losses.

    With ``a`` the rank correlation of draft and model on the probes, brought to [0, 1], ``(1 - a) n / 8`` more are asked about,
    those that the draft likes best, at least one.

    Args:
        lm: the model, whose tokens the suffixes are.
        frame: the request.
        suffixes: ``(n, S)``.
        loss: the model's loss of some of them.
        draft: a smaller model with a tokenizer of its own.
        generator: draws the probes.
        system: the system's words.

    Reference: Zhao et al., NeurIPS 2024.
    """
    count = len(suffixes)
    if count < 2:
        return suffixes, loss(suffixes)
    guess = draft_loss(draft, frame, [append_suffix(lm, frame.request, suffix) for suffix in suffixes], system)
    order = torch.randperm(count, generator=generator)[: max(2, count // _PROBED)].to(suffixes.device)
    known = loss(suffixes[order])
    rank = float(spearmanr(guess[order].tolist(), known.tolist()).statistic) if len(set(known.tolist())) > 1 else 0.0
    trust = 0.5 if math.isnan(rank) else (1 + rank) / 2
    unasked = guess.clone()
    unasked[order] = torch.inf
    more = unasked.argsort()[: min(max(1, round((1 - trust) * count / _SHARE)), count - len(order))]
    return suffixes[torch.cat([order, more])], torch.cat([known, loss(suffixes[more])])


@torch.no_grad()
def draft_loss(draft: LanguageModel, frame: Frame, texts: list[str], system: str | None) -> Tensor:
    """Return the draft's mean NLL of the target after each text, ``(n,)``."""
    encoded = encode(draft, texts, [frame.request.target] * len(texts), system=system, ended=False)
    with eval_mode(draft.network, freeze=True):
        return answer_nll(logits(draft, encoded, last=answer_span(encoded)), encoded)

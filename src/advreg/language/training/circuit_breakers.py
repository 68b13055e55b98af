"""Circuit breakers: hidden states of harmful answers turn away from those of the base model, all others stay."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg.language.config import LanguageConfig
from advreg.language.models.adapters import adapter_off
from advreg.language.models.chat import Encoded
from advreg.language.models.embeddings import answer_nll, answer_span, logits
from advreg.language.models.language_model import LanguageModel
from advreg.language.models.text_tower import record_blocks, transformer_blocks
from advreg.language.training.requests import RequestBatch, Terms, encode_both
from advreg.module_modes import eval_mode


def rerouting_layers(lm: LanguageModel) -> tuple[int, ...]:
    """Return the numbers of the blocks at 10/32 and 20/32 of the depth, the authors' choice for models of 32 blocks."""
    count = len(transformer_blocks(lm))
    return tuple(sorted({count * 10 // 32, count * 20 // 32}))


def rerouting_terms(lm: LanguageModel, batch: RequestBatch, config: LanguageConfig) -> Terms:
    """Return ``c mean_{l, t} relu(cos(h_lt, base h_lt))`` over the tokens of requests with harmful openers.

    ``c = reroute (1 - progress / 2)``. It costs two forwards and one backward a request.

    Args:
        lm: the model with an adapter, in train mode.
        batch: harmful requests.
        config: blocks (``attack.layers``) and weight (``recipe.reroute``).

    Returns:
        ``loss`` and ``cosine``, each ``(B,)``.

    Reference: Zou et al., "Improving alignment and robustness with circuit breakers", NeurIPS 2024, arXiv:2406.04313.
    """
    harmful, _ = encode_both(lm, batch.requests)
    layers = config.attack.layers or rerouting_layers(lm)
    base, (now, _) = _base_states(lm, harmful, layers), _states(lm, harmful, layers)
    cosine = _token_mean(F.cosine_similarity(now, base, dim=-1).relu(), harmful)
    return {"loss": config.recipe.reroute * (1 - batch.progress / 2) * cosine, "cosine": cosine.detach()}


def retain_terms(lm: LanguageModel, encoded: Encoded, progress: float, config: LanguageConfig) -> Terms:
    """Return ``c mean_{l, t} |h_lt - base h_lt|`` over all blocks and tokens of benign examples, ``c = reroute progress / 2``.

    Args:
        lm: the model with an adapter, in train mode.
        encoded: benign examples.
        progress: share of training that is done.
        config: weight (``recipe.reroute``).

    Returns:
        ``loss``, ``retain`` and ``utility_nll``, each ``(B,)``.
    """
    layers = tuple(range(len(transformer_blocks(lm))))
    base, (now, scores) = _base_states(lm, encoded, layers), _states(lm, encoded, layers)
    distance = _token_mean(torch.linalg.vector_norm(now - base, dim=-1), encoded)
    utility = answer_nll(scores.detach(), encoded)
    return {"loss": config.recipe.reroute * progress / 2 * distance, "retain": distance, "utility_nll": utility}


def _states(lm: LanguageModel, encoded: Encoded, layers: tuple[int, ...] | list[int]) -> tuple[Tensor, Tensor]:
    """Return the outputs of blocks ``(B, N, T, D)`` in float32 or better, and the logits of the answers."""
    with record_blocks(lm, layers) as states:
        scores = logits(lm, encoded, last=answer_span(encoded))
    exact = [state.to(torch.promote_types(state.dtype, torch.float32)) for state in states]
    return torch.stack(exact, 1), scores


@torch.no_grad()
def _base_states(lm: LanguageModel, encoded: Encoded, layers: tuple[int, ...] | list[int]) -> Tensor:
    """Return the outputs of blocks without the adapter."""
    with eval_mode(lm.network, freeze=True), adapter_off(lm):
        return _states(lm, encoded, layers)[0]


def _token_mean(values: Tensor, encoded: Encoded) -> Tensor:
    """Return the mean of ``(B, N, T)`` over blocks and tokens, without padding ``(B,)``."""
    counted = values.mean(1) * encoded.mask
    return counted.sum(1) / encoded.mask.sum(1)

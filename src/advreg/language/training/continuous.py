"""Continuous adversarial training: the loss of requests under a perturbation of the user's embeddings."""

from __future__ import annotations

from advreg.language.attacks.embedding import embedding_pgd
from advreg.language.config import LanguageConfig
from advreg.language.models.language_model import LanguageModel
from advreg.language.training.requests import RequestBatch, Terms, answer_logits, defend, encode_both


def continuous_terms(lm: LanguageModel, batch: RequestBatch, config: LanguageConfig) -> Terms:
    """Return the terms of `defend` under the perturbation of the user's embeddings that makes the opener likely.

    The attack is the one of evaluation, `embedding_pgd`; it costs ``steps + 1`` forwards and ``steps`` backwards a request,
    the terms two more of each.

    Args:
        lm: the model, in train mode.
        batch: harmful requests.
        config: options of the attack, and weights and cutoffs of the terms.

    Returns:
        ``loss``, ``refusal_nll`` and ``target_nll``, each ``(B,)``.

    Reference: Xhonneux et al., "Efficient adversarial training in LLMs with continuous attacks", NeurIPS 2024,
    arXiv:2405.15589.
    """
    harmful, refused = encode_both(lm, batch.requests)
    delta = embedding_pgd(lm, harmful, **config.attack.options, seed=batch.seed, ids=batch.ids)
    return defend(answer_logits(lm, delta), harmful, refused, config.recipe)

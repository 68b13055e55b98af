"""Latent adversarial training: a perturbation of the residual stream at the user's tokens, in several blocks at once."""

from __future__ import annotations

from torch import Tensor

from advreg.language.attacks.latent import default_layers, latent_pgd, perturb_latents
from advreg.language.config import LanguageConfig
from advreg.language.models.chat import Encoded
from advreg.language.models.embeddings import answer_nll
from advreg.language.models.language_model import LanguageModel
from advreg.language.training.losses import unlikelihood
from advreg.language.training.requests import RequestBatch, Terms, answer_logits, encode_both


def latent_terms(lm: LanguageModel, batch: RequestBatch, config: LanguageConfig) -> Terms:
    """Return the loss of requests under the perturbation of the residual stream that makes the opener likely.

    ``toward NLL(refusal) + away mean_t -log(1 - p(opener_t))``; opener tokens with an NLL above ``away_cutoff`` do not count.

    Args:
        lm: the model, in train mode.
        batch: harmful requests.
        config: options of the attack, and weights and cutoff of the terms; eps is relative to the mean norm of each block's
            output, which costs one forward more.

    Returns:
        ``loss``, ``refusal_nll`` and ``target_nll``, each ``(B,)``.

    Reference: Sheshadri et al., "Latent adversarial training improves robustness to persistent harmful behaviors in LLMs",
    2024, arXiv:2407.15549.
    """
    harmful, refused = encode_both(lm, batch.requests)
    layers = config.attack.layers or default_layers(lm)
    delta = latent_pgd(lm, harmful, **config.attack.options, layers=layers, seed=batch.seed)

    def logits_of(encoded: Encoded) -> Tensor:
        with perturb_latents(lm, encoded, delta, layers):
            return answer_logits(lm)(encoded)

    recipe = config.recipe
    refusal = answer_nll(logits_of(refused), refused)
    scores = logits_of(harmful)
    loss = recipe.toward * refusal + recipe.away * unlikelihood(scores, harmful, recipe.away_cutoff)
    return {"loss": loss, "refusal_nll": refusal.detach(), "target_nll": answer_nll(scores.detach(), harmful)}

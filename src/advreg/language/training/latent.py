"""Latent adversarial training: a perturbation of the residual stream at the user's tokens, in several blocks at once."""

from __future__ import annotations

from torch import Tensor

from advreg.language.attacks.latent import default_layers, latent_pgd, perturb_latents
from advreg.language.config import LanguageAttackConfig, LanguageRecipeConfig
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded
from advreg.language.models.loading import LanguageModel
from advreg.language.training.continuous import defend_embeddings, encode_both, perturbed_nll


def latent_terms(
    lm: LanguageModel,
    requests: list[HarmfulRequest],
    attack: LanguageAttackConfig,
    recipe: LanguageRecipeConfig,
    seed: int,
) -> dict[str, Tensor]:
    """Return the terms of `defend_embeddings` under the perturbation of the residual stream that makes the opener likely.

    Args:
        lm: the model, in train mode.
        requests: harmful requests.
        attack: options of the attack; eps is relative to the mean norm of each block's output, which costs one forward more.
        recipe: weights and cutoffs of the terms.
        seed: of the attack.

    Returns:
        ``loss``, ``refusal_nll`` and ``target_nll``, each ``(B,)``.

    Reference: Casper et al., "Defending against unforeseen failure modes with latent adversarial training", 2024; Sheshadri
    et al., "Latent adversarial training improves robustness to persistent harmful behaviors in LLMs", 2024.
    """
    harmful, refused = encode_both(lm, requests)
    layers = attack.layers or default_layers(lm)
    step_size = None if attack.step_size == "auto" else attack.step_size
    delta = latent_pgd(lm, harmful, eps=attack.eps, steps=attack.steps, step_size=step_size, layers=layers, seed=seed)
    unperturbed = perturbed_nll(lm, None)

    def nll(encoded: Encoded) -> Tensor:
        with perturb_latents(lm, encoded, delta, layers):
            return unperturbed(encoded)

    return defend_embeddings(nll, harmful, refused, recipe)

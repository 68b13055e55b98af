"""Latent adversarial training: the residual stream at the user's words is moved, at several blocks at once."""

from __future__ import annotations

from torch import Tensor

from advreg.language.attacks.latent import default_layers, latent_pgd, perturb_latents
from advreg.language.config import LanguageAttackConfig, LanguageRecipeConfig
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded
from advreg.language.models.loading import LanguageModel
from advreg.language.training.continuous import defend_embeddings, encoded_twice, perturbed_nll


def latent(
    lm: LanguageModel,
    requests: list[HarmfulRequest],
    attack: LanguageAttackConfig,
    recipe: LanguageRecipeConfig,
    seed: int,
) -> dict[str, Tensor]:
    """Return the terms of `defend_embeddings` where the residual stream has moved to make the harmful opener likely.

    Arguments and result are those of `advreg.language.training.continuous.continuous`; eps is relative to the mean norm that
    each block passes on, and the search costs one forward more, which measures it.

    Reference: Casper et al., "Defending against unforeseen failure modes with latent adversarial training", 2024; Sheshadri
    et al., "Latent adversarial training improves robustness to persistent harmful behaviors in LLMs", 2024.
    """
    harmful, refused = encoded_twice(lm, requests)
    layers = attack.layers or default_layers(lm)
    step_size = None if attack.step_size == "auto" else attack.step_size
    delta = latent_pgd(lm, harmful, eps=attack.eps, steps=attack.steps, step_size=step_size, layers=layers, seed=seed)
    ask = perturbed_nll(lm, None)

    def nll(encoded: Encoded) -> Tensor:
        with perturb_latents(lm, encoded, delta, layers):
            return ask(encoded)

    return defend_embeddings(nll, harmful, refused, recipe)

"""Loss terms of harmful requests: unattacked, or under a perturbation of the user's embeddings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from advreg.language.attacks.embedding import embedding_pgd
from advreg.language.config import LanguageAttackConfig, LanguageRecipeConfig
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded, encode
from advreg.language.models.embeddings import answer_nll, answer_span, logits
from advreg.language.models.loading import LanguageModel
from advreg.language.training.losses import away, toward

Nll = Callable[[Encoded], Tensor]
"""Conversations with answers -> loss of the answers ``(B,)``, with or without a perturbation."""


def defend_embeddings(nll: Nll, harmful: Encoded, refused: Encoded, recipe: LanguageRecipeConfig) -> dict[str, Tensor]:
    """Return the loss towards refusals and away from harmful openers, and both answers' losses, each ``(B,)``.

    Both answers are evaluated under one perturbation, which was found for the harmful opener: an attacker that made the opener
    likely must get a refusal.

    Args:
        nll: evaluates answers under the perturbation.
        harmful: the requests with harmful openers.
        refused: the requests with refusals.
        recipe: weights and cutoffs of the terms.

    Returns:
        ``loss``, ``refusal_nll`` and ``target_nll``.
    """
    refusal, opener = nll(refused), nll(harmful)
    loss = recipe.toward * toward(refusal, recipe.toward_cutoff) + recipe.away * away(opener, recipe.away_cutoff)
    return {"loss": loss, "refusal_nll": refusal.detach(), "target_nll": opener.detach()}


def encode_both(lm: LanguageModel, requests: list[HarmfulRequest]) -> tuple[Encoded, Encoded]:
    """Return the requests with the open-ended openers of harmful answers, and with whole refusals.

    Args:
        lm: the model, for its tokenizer.
        requests: harmful requests.
    """
    prompts = [request.prompt for request in requests]
    harmful = encode(lm, prompts, [request.target for request in requests], ended=False)
    return harmful, encode(lm, prompts, [request.refusal for request in requests])


def perturbed_nll(lm: LanguageModel, delta: Tensor | None) -> Nll:
    """Return the function that evaluates the loss of answers under a perturbation.

    Args:
        lm: the model.
        delta: perturbation of the user's embeddings ``(B, P, D)``; None for no perturbation.
    """
    return lambda encoded: answer_nll(logits(lm, encoded, delta, last=answer_span(encoded)), encoded)


def unattacked_terms(
    lm: LanguageModel,
    requests: list[HarmfulRequest],
    attack: LanguageAttackConfig,
    recipe: LanguageRecipeConfig,
    seed: int,
) -> dict[str, Tensor]:
    """Return the terms of `defend_embeddings` without an attack.

    Args:
        lm: the model, in train mode.
        requests: harmful requests.
        attack: not used.
        recipe: weights and cutoffs of the terms.
        seed: not used.

    Returns:
        ``loss``, ``refusal_nll`` and ``target_nll``, each ``(B,)``.
    """
    harmful, refused = encode_both(lm, requests)
    return defend_embeddings(perturbed_nll(lm, None), harmful, refused, recipe)


def continuous_terms(
    lm: LanguageModel,
    requests: list[HarmfulRequest],
    attack: LanguageAttackConfig,
    recipe: LanguageRecipeConfig,
    seed: int,
) -> dict[str, Tensor]:
    """Return the terms of `defend_embeddings` under the perturbation of the user's embeddings that makes the opener likely.

    Args:
        lm: the model, in train mode.
        requests: harmful requests.
        attack: options of the attack, which costs ``steps + 1`` forwards and ``steps`` backwards a request.
        recipe: weights and cutoffs of the terms, which cost two more of each.
        seed: of the attack.

    Returns:
        ``loss``, ``refusal_nll`` and ``target_nll``, each ``(B,)``.

    Reference: Xhonneux et al., "Efficient adversarial training in LLMs with continuous attacks", NeurIPS 2024.
    """
    harmful, refused = encode_both(lm, requests)
    step_size = None if attack.step_size == "auto" else attack.step_size
    ids = torch.tensor([request.id for request in requests])
    delta = embedding_pgd(lm, harmful, eps=attack.eps, steps=attack.steps, step_size=step_size, seed=seed, ids=ids)
    return defend_embeddings(perturbed_nll(lm, delta), harmful, refused, recipe)

"""Harmful requests in training: as they are, or where an attack has moved the user's words or the residual stream."""

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
"""From a batch with answers to the answers' loss ``(B,)``, under a perturbation or none."""


def defend_embeddings(nll: Nll, harmful: Encoded, refused: Encoded, recipe: LanguageRecipeConfig) -> dict[str, Tensor]:
    """Return what pulls to refusals and pushes from harmful openers, and the losses both come from, each ``(B,)``.

    Both are asked under one perturbation, the one found for the harmful opener: an attacker who made that likely shall hear
    a refusal.
    """
    refusal, opener = nll(refused), nll(harmful)
    loss = recipe.toward * toward(refusal, recipe.toward_cutoff) + recipe.away * away(opener, recipe.away_cutoff)
    return {"loss": loss, "refusal_nll": refusal.detach(), "target_nll": opener.detach()}


def encoded_twice(lm: LanguageModel, requests: list[HarmfulRequest]) -> tuple[Encoded, Encoded]:
    """Return the requests with the openers of harmful answers, to be gone on with, and with whole refusals."""
    prompts = [request.prompt for request in requests]
    harmful = encode(lm, prompts, [request.target for request in requests], ended=False)
    return harmful, encode(lm, prompts, [request.refusal for request in requests])


def perturbed_nll(lm: LanguageModel, delta: Tensor | None) -> Nll:
    """Return the loss of answers with the user's words moved by ``delta (B, P, D)``."""
    return lambda encoded: answer_nll(logits(lm, encoded, delta, last=answer_span(encoded)), encoded)


def plain(
    lm: LanguageModel,
    requests: list[HarmfulRequest],
    attack: LanguageAttackConfig,
    recipe: LanguageRecipeConfig,
    seed: int,
) -> dict[str, Tensor]:
    """Return the terms of `defend_embeddings` for requests as they are."""
    harmful, refused = encoded_twice(lm, requests)
    return defend_embeddings(perturbed_nll(lm, None), harmful, refused, recipe)


def continuous(
    lm: LanguageModel,
    requests: list[HarmfulRequest],
    attack: LanguageAttackConfig,
    recipe: LanguageRecipeConfig,
    seed: int,
) -> dict[str, Tensor]:
    """Return the terms of `defend_embeddings` where the user's words have moved to make the harmful opener likely.

    Args:
        lm: the model, in train mode.
        requests: what to learn from.
        attack: how the attack searches: ``steps + 1`` forwards and ``steps`` backwards a request.
        recipe: the weights of the terms: two more of each.
        seed: of the attack.

    Returns:
        ``loss``, ``refusal_nll`` and ``target_nll``, each ``(B,)``.

    Reference: Xhonneux et al., "Efficient adversarial training in LLMs with continuous attacks", NeurIPS 2024.
    """
    harmful, refused = encoded_twice(lm, requests)
    step_size = None if attack.step_size == "auto" else attack.step_size
    ids = torch.tensor([request.id for request in requests])
    delta = embedding_pgd(lm, harmful, eps=attack.eps, steps=attack.steps, step_size=step_size, seed=seed, ids=ids)
    return defend_embeddings(perturbed_nll(lm, delta), harmful, refused, recipe)

"""Loss terms of harmful requests: a refusal to favour and a target to avoid, under the perturbation of a recipe or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advreg.language.config import LanguageConfig, LanguageRecipeConfig
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded, encode
from advreg.language.models.embeddings import answer_nll, answer_span, logits
from advreg.language.models.language_model import LanguageModel
from advreg.language.training.losses import away, toward

Terms = dict[str, Tensor]
"""Term of the loss -> its value for each example ``(B,)``; ``loss`` has the graph."""
LogitsOf = Callable[[Encoded], Tensor]
"""Conversations with answers -> logits of their last positions, with or without a perturbation."""


@dataclass(frozen=True)
class RequestBatch:
    """Harmful requests of one step.

    Attributes:
        requests: each with one opener and one refusal.
        seed: seed of the attack.
        progress: share of training that is done.
    """

    requests: list[HarmfulRequest]
    seed: int = 0
    progress: float = 0.0

    @property
    def ids(self) -> Tensor:
        """Ids of the examples ``(B,)``."""
        return torch.tensor([request.id for request in self.requests])


def encode_both(lm: LanguageModel, requests: list[HarmfulRequest]) -> tuple[Encoded, Encoded]:
    """Return the requests with the open-ended openers of harmful answers, and with whole refusals.

    Args:
        lm: the model, for its tokenizer.
        requests: harmful requests.
    """
    prompts = [request.prompt for request in requests]
    harmful = encode(lm, prompts, [request.target for request in requests], ended=False)
    return harmful, encode(lm, prompts, [request.refusal for request in requests])


def answer_logits(lm: LanguageModel, delta: Tensor | None = None) -> LogitsOf:
    """Return the function from conversations to the logits that predict their answers.

    Args:
        lm: the model.
        delta: perturbation of the user's embeddings ``(B, P, D)``; None for no perturbation.
    """
    return lambda encoded: logits(lm, encoded, delta, last=answer_span(encoded))


def defend(logits_of: LogitsOf, harmful: Encoded, refused: Encoded, recipe: LanguageRecipeConfig) -> Terms:
    """Return the loss towards refusals and away from harmful openers, each with its cutoff.

    Both answers are evaluated under one perturbation, which was found for the harmful opener: an attack that made the opener
    likely must get a refusal. With ``recipe.cutoff_over = "batch"`` the mean over all tokens of the batch is compared with the
    cutoff, as in the authors' code; else the mean over the tokens of each example.

    Args:
        logits_of: evaluates answers under the perturbation.
        harmful: the requests with harmful openers.
        refused: the requests with refusals.
        recipe: weights and cutoffs of the terms.

    Returns:
        ``loss``, ``refusal_nll`` and ``target_nll``.

    Reference: Xhonneux et al., "Efficient adversarial training in LLMs with continuous attacks", NeurIPS 2024,
    arXiv:2405.15589.
    """
    refusal, opener = answer_nll(logits_of(refused), refused), answer_nll(logits_of(harmful), harmful)
    whole_batch = recipe.cutoff_over == "batch"
    favoured = toward(_token_mean(refusal, refused) if whole_batch else refusal, recipe.toward_cutoff)
    avoided = away(_token_mean(opener, harmful) if whole_batch else opener, recipe.away_cutoff)
    loss = recipe.toward * favoured + recipe.away * avoided
    return {"loss": loss, "refusal_nll": refusal.detach(), "target_nll": opener.detach()}


def _token_mean(nll: Tensor, encoded: Encoded) -> Tensor:
    """Return the mean over all tokens of a batch of answers, once for each example ``(B,)``."""
    tokens = encoded.answer.sum(1)
    return ((nll * tokens).sum() / tokens.sum()).expand(len(nll))


def plain_terms(lm: LanguageModel, batch: RequestBatch, config: LanguageConfig) -> Terms:
    """Return the terms of `defend` without an attack.

    Args:
        lm: the model, in train mode.
        batch: harmful requests.
        config: weights and cutoffs of the terms.

    Returns:
        ``loss``, ``refusal_nll`` and ``target_nll``, each ``(B,)``.
    """
    return defend(answer_logits(lm), *encode_both(lm, batch.requests), config.recipe)


def refusal_sft_terms(lm: LanguageModel, batch: RequestBatch, config: LanguageConfig) -> Terms:
    """Return the NLL of refusals: supervised fine-tuning, the baseline of every other recipe.

    Args:
        lm: the model, in train mode.
        batch: harmful requests.
        config: weight of the term.

    Returns:
        ``loss`` and ``refusal_nll``, each ``(B,)``.
    """
    _, refused = encode_both(lm, batch.requests)
    refusal = answer_nll(answer_logits(lm)(refused), refused)
    return {"loss": config.recipe.toward * refusal, "refusal_nll": refusal.detach()}

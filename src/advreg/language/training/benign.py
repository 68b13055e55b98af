"""Benign examples in training: they keep a model useful, with the smoothness terms of FreeLB, SMART and ALUM."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from advreg.language.config import LanguageConfig
from advreg.language.datasets import InstructionExample
from advreg.language.models.adapters import adapter_off
from advreg.language.models.chat import Encoded, encode
from advreg.language.models.embeddings import answer_nll, answer_span, embedding_norm, logits
from advreg.language.models.loading import LanguageModel
from advreg.language.perturbation import random_start, replayed_rng
from advreg.language.training.circuit_breakers import retain_terms
from advreg.language.training.freelb import freelb
from advreg.language.training.losses import kl, predicting_positions, symmetric_kl
from advreg.language.training.smart import alum, regularizer_active, smart
from advreg.module_modes import eval_mode
from advreg.runtime import derived_seed
from advreg.trainer.averaging import AveragedWeights
from advreg.trainer.optimization import trainable_parameters

Terms = dict[str, Tensor]
"""Detached sums over the examples of a batch; the gradient of ``loss`` is in the weights."""


@dataclass(frozen=True)
class BenignBatch:
    """A tokenised batch of benign examples.

    Attributes:
        encoded: the conversations.
        last: number of last positions that hold the answers.
        ids: of the examples ``(B,)``.
        step: number of the step, from 0.
        steps: steps of the whole run.
    """

    encoded: Encoded
    last: int
    ids: Tensor
    step: int
    steps: int

    @property
    def counted(self) -> Tensor:
        """The positions ``(B, last)`` with logits that predict a token of the answer."""
        return predicting_positions(self.encoded.answer[:, -self.last :])


def encode_benign(lm: LanguageModel, examples: list[InstructionExample], step: int, steps: int) -> BenignBatch:
    """Return examples as a tokenised batch.

    Args:
        lm: the model, for its tokenizer.
        examples: benign examples.
        step: number of the step, from 0.
        steps: steps of the whole run.

    Returns:
        The batch.
    """
    prompts, answers = [example.prompt for example in examples], [example.answer for example in examples]
    encoded = encode(lm, prompts, answers, history=[example.history for example in examples])
    return BenignBatch(encoded, answer_span(encoded), torch.tensor([example.id for example in examples]), step, steps)


def learn_benign(
    lm: LanguageModel, batch: BenignBatch, config: LanguageConfig, average: AveragedWeights | None, weight: float
) -> Terms:
    """Add to the gradients ``weight`` times the gradient of the batch's summed loss.

    Args:
        lm: the model, in train mode.
        batch: the examples.
        config: the recipe and its options.
        average: averaged weights, the teacher of SMART; None where there is none.
        weight: of one example in the step.

    Returns:
        ``loss``, ``utility_nll`` and, with ``recipe.kl``, ``kl``, of circuit_breakers ``retain``: sums over the batch.
    """
    if config.recipe.name == "freelb":
        return _freelb(lm, batch, config, weight)
    if config.recipe.name == "circuit_breakers":
        kept = retain_terms(lm, batch.encoded, batch.step / batch.steps, config)
        (weight * kept["loss"].sum()).backward()  # type: ignore[no-untyped-call]
        return {name: value.detach().sum() for name, value in kept.items()}
    references = _references(lm, batch, config, average)
    with replayed_rng() as rewind:
        clean = logits(lm, batch.encoded, last=batch.last)
        terms = {"utility_nll": answer_nll(clean, batch.encoded)}
        loss = config.recipe.utility * terms["utility_nll"]
        if config.recipe.kl:
            terms["kl"] = kl(references["base"], clean, batch.counted)
            loss = loss + config.recipe.kl * terms["kl"]
        if config.recipe.teacher:
            loss = loss + config.recipe.teacher * symmetric_kl(clean, references["teacher"], batch.counted)
        if _uses_smoothness(config, batch):
            rewind()
            loss = loss + config.recipe.smooth * _smoothness(lm, batch, config, clean)
    (weight * loss.sum()).backward()  # type: ignore[no-untyped-call]
    return {name: value.detach().sum() for name, value in {"loss": loss, **terms}.items()}


@torch.no_grad()
def _references(
    lm: LanguageModel, batch: BenignBatch, config: LanguageConfig, average: AveragedWeights | None
) -> dict[str, Tensor]:
    """Return the logits of the reference models: the model without its adapter, and with its averaged weights."""
    contexts: dict[str, AbstractContextManager[None]] = {}
    if config.recipe.kl:
        contexts["base"] = adapter_off(lm)
    if config.recipe.teacher and average is not None:
        contexts["teacher"] = average.in_place(trainable_parameters(lm.network))
    references = {}
    for name, context in contexts.items():
        with eval_mode(lm.network, freeze=True), context:
            references[name] = logits(lm, batch.encoded, last=batch.last)
    return references


def _uses_smoothness(config: LanguageConfig, batch: BenignBatch) -> bool:
    late = config.recipe.name == "alum" and regularizer_active(batch.step, batch.steps, 0.5)
    return config.recipe.name == "smart" or late


def _smoothness(lm: LanguageModel, batch: BenignBatch, config: LanguageConfig, clean: Tensor) -> Tensor:
    """Return the term of SMART or ALUM ``(B,)``; eps is relative to the mean size of a coordinate."""
    coordinate = config.attack.eps * embedding_norm(lm) / lm.dim**0.5
    where, start = _user_tokens_and_start(lm, batch, config.seed)
    term = smart if config.recipe.name == "smart" else alum
    return term(
        lambda delta: logits(lm, batch.encoded, delta, last=batch.last),
        clean,
        0.1 * coordinate * start,
        eps=coordinate,
        steps=config.attack.steps,
        step_size=_step_size(config, coordinate, embedding_norm(lm) / lm.dim**0.5),
        where=where,
        counted=batch.counted,
    )


def _freelb(lm: LanguageModel, batch: BenignBatch, config: LanguageConfig, weight: float) -> Terms:
    eps = config.attack.eps * embedding_norm(lm)
    where, start = _user_tokens_and_start(lm, batch, config.seed)
    total = torch.zeros((), device=lm.device)

    def loss(delta: Tensor) -> Tensor:
        nll = answer_nll(logits(lm, batch.encoded, delta, last=batch.last), batch.encoded).sum()
        total.add_(nll.detach() / config.attack.steps)
        return weight * config.recipe.utility * nll

    step_size = _step_size(config, eps / config.attack.steps, embedding_norm(lm))
    start = eps * start / (start.shape[1] * start.shape[2]) ** 0.5
    value = freelb(loss, start, eps=eps, steps=config.attack.steps, step_size=step_size, where=where)
    return {"loss": value / weight, "utility_nll": total}


def _user_tokens_and_start(lm: LanguageModel, batch: BenignBatch, seed: int) -> tuple[Tensor, Tensor]:
    """Return the mask of the user's tokens ``(B, P)``, and uniform noise ``(B, P, D)`` in [-1, 1]."""
    counts = batch.encoded.content.sum(1)
    most = int(counts.max())
    where = torch.arange(most, device=lm.device) < counts[:, None]
    start = random_start(batch.ids, (most, lm.dim), 1.0, derived_seed(seed, "start", batch.step))
    return where, start.to(lm.device)


def _step_size(config: LanguageConfig, auto: float, unit: float) -> float:
    return auto if config.attack.step_size == "auto" else config.attack.step_size * unit

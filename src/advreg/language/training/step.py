"""One optimizer step on the mean loss of the harmful requests plus the mean loss of the benign examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from advreg import distributed, runtime
from advreg.language.attacks.result import count_model_passes
from advreg.language.training.batches import batch_at
from advreg.language.training.benign import encode_benign, learn_benign
from advreg.language.training.circuit_breakers import rerouting_terms
from advreg.language.training.continuous import continuous_terms
from advreg.language.training.latent import latent_terms
from advreg.language.training.requests import RequestBatch, plain_terms, refusal_sft_terms
from advreg.language.training.setup import LanguageTrainState
from advreg.trainer.divergence import nonfinite_loss, overflow
from advreg.trainer.moment import Moment
from advreg.trainer.optimization import take_optimizer_step, trainable_parameters
from advreg.trainer.schedules import SCHEDULES

Tally = dict[str, float]
"""Name -> sum over the examples of some steps: terms of the loss, numbers of examples, passes."""

_REQUEST_TERMS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "continuous": continuous_terms,
    "latent": latent_terms,
    "refusal_sft": refusal_sft_terms,
    "circuit_breakers": rerouting_terms,
}
_OF_REQUESTS, _OF_BENIGN = ("refusal_nll", "target_nll", "cosine"), ("utility_nll", "kl", "retain")

T = TypeVar("T")


def take_step(session: LanguageTrainState, step: int) -> Tally:
    """Take one optimizer step.

    Both kinds of examples contribute the mean of their losses, so that their share changes the mixture and not the scale of
    the loss, as published. The loss of a request is multiplied by its weight, and the mean is over their number: the share of
    a request in the loss of a round is its share of all weights, whatever the size of a batch. With ``train.micro_batch`` the
    same gradient accumulates over several forwards. All random draws depend on seed and step alone, so that a resumed run
    equals an uninterrupted one.

    Processes share a batch: each computes the gradient of its examples, and the sum of all moves the weights.

    Args:
        session: the run.
        step: number of the step, from 0.

    Returns:
        The tally of the step, of all processes.
    """
    config = session.config
    runtime.seed_everything(runtime.derived_seed(config.seed, "step", step))
    factor = SCHEDULES[config.train.schedule]()
    session.optimizer.param_groups[0]["lr"] = config.train.lr * factor(step / session.steps)
    session.lm.network.train()
    with count_model_passes(session.lm) as spent:
        tally = take_optimizer_step(session.optimizer, lambda: _gradients(session, step), config.train.gradient_clip)
    if session.average is not None:
        weights = trainable_parameters(session.lm.network)
        session.average.update(weights, Moment(epoch=1, step=step, steps=session.steps))
    return _of_all_processes({**tally, "forwards": spent.forwards, "backwards": spent.backwards}, session.lm.device)


def _of_all_processes(tally: Tally, device: torch.device) -> Tally:
    """Return a tally with the sums over all processes; each of them knows the sizes of the whole batch."""
    if not distributed.is_distributed():
        return tally
    names = ("loss", *_OF_REQUESTS, *_OF_BENIGN, "forwards", "backwards")
    values = [tally.get(name, 0.0) for name in names] + [float(name in tally) for name in names]
    sums = distributed.sum_values(*values, device=device)
    return tally | {name: sums[k] for k, name in enumerate(names) if sums[len(names) + k]}


def _gradients(session: LanguageTrainState, step: int) -> Tally:
    """Add the gradients of both kinds of examples, and return their tally."""
    config, lm = session.config, session.lm
    batch = batch_at(session.texts, session.mix, step, config.seed)
    tally = {"steps": 1.0, "loss": 0.0, "examples": float(batch.size), "adversarial": float(len(batch.requests))}
    terms_of = _REQUEST_TERMS.get(config.recipe.name, plain_terms)
    seed = runtime.derived_seed(config.seed, "attack", step)
    size, own = config.train.micro_batch, distributed.current_ranks().share
    weighted = zip(_parts(own(batch.requests), size), _parts(own(batch.weights), size), strict=True)
    for requests, weights in weighted:
        terms = terms_of(lm, RequestBatch(requests, seed, step / session.steps), config)
        terms = {**terms, "loss": terms["loss"] * terms["loss"].new_tensor(weights)}
        (terms["loss"].sum() / len(batch.requests)).backward()  # type: ignore[no-untyped-call]
        _add(tally, {name: value.detach().sum() for name, value in terms.items()}, 1 / len(batch.requests))
    for examples in _parts(own(batch.benign), size):
        weight = 1 / len(batch.benign)
        benign = encode_benign(lm, examples, step, session.steps)
        _add(tally, learn_benign(lm, benign, config, session.average, weight), weight)
    distributed.sum_gradients(trainable_parameters(lm.network))
    return tally


def _parts(examples: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield the examples in lists of at most ``size``, all at once if 0."""
    for start in range(0, len(examples), size or max(len(examples), 1)):
        yield list(examples[start : start + (size or len(examples))])


def _add(tally: Tally, sums: dict[str, Tensor], weight: float) -> None:
    """Add the sums of a part of a batch; its loss counts with the weight of one example."""
    for name, value in sums.items():
        tally[name] = tally.get(name, 0.0) + float(value) * (weight if name == "loss" else 1)


def add_tallies(tally: Tally, more: Tally) -> Tally:
    """Return the sums of two tallies.

    Args:
        tally: a tally.
        more: another one.

    Example:
        >>> add_tallies({"loss": 1.0}, {"loss": 2.0, "kl": 0.5})
        {'loss': 3.0, 'kl': 0.5}
    """
    return {name: tally.get(name, 0.0) + more.get(name, 0.0) for name in dict.fromkeys([*tally, *more])}


def mean_terms(tally: Tally) -> dict[str, float]:
    """Return the mean loss of the steps, and the mean of each term over the examples that have it.

    Args:
        tally: sums over some steps.

    Example:
        >>> mean_terms({"steps": 2, "examples": 8, "adversarial": 2, "loss": 4.0, "refusal_nll": 1.0, "utility_nll": 3.0})
        {'loss': 2.0, 'refusal_nll': 0.5, 'utility_nll': 0.5}
    """
    counts = {"loss": tally["steps"], **dict.fromkeys(_OF_REQUESTS, tally["adversarial"])}
    counts |= dict.fromkeys(_OF_BENIGN, tally["examples"] - tally["adversarial"])
    return {name: tally[name] / count for name, count in counts.items() if name in tally}


def divergence(session: LanguageTrainState, tally: Tally) -> str | None:
    """Return what is not finite any more, so that it never reaches a checkpoint; None where all is finite.

    Args:
        session: the run.
        tally: sums of the last step.
    """
    return nonfinite_loss(tally["loss"]) or overflow(session.trainable_weights)

"""One optimizer step on adversarial and benign examples, which all weigh the same."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from advreg import runtime
from advreg.language.attacks.result import count_model_passes
from advreg.language.training.batches import batch_at
from advreg.language.training.benign import encode_benign, learn_benign
from advreg.language.training.continuous import continuous_terms, unattacked_terms
from advreg.language.training.latent import latent_terms
from advreg.language.training.setup import LanguageTrainState
from advreg.trainer.divergence import nonfinite_loss, overflow
from advreg.trainer.moment import Moment
from advreg.trainer.optimization import take_optimizer_step, trainable_parameters
from advreg.trainer.schedules import SCHEDULES

Tally = dict[str, float]
"""Name -> sum over the examples of some steps: terms of the loss, numbers of examples, passes."""

_REQUEST_TERMS: dict[str, Callable[..., dict[str, Tensor]]] = {"continuous": continuous_terms, "latent": latent_terms}


def take_step(session: LanguageTrainState, step: int) -> Tally:
    """Take one optimizer step on the mean loss of the batch's examples of both kinds.

    All random draws depend on seed and step alone, so that a resumed run equals an uninterrupted one.

    Args:
        session: the run.
        step: number of the step, from 0.

    Returns:
        The tally of the step.
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
    return {**tally, "forwards": spent.forwards, "backwards": spent.backwards}


def _gradients(session: LanguageTrainState, step: int) -> Tally:
    """Add the gradients of both kinds of examples, and return their tally."""
    config = session.config
    batch = batch_at(session.texts, session.mix, step, config.seed)
    tally = {"examples": float(batch.size), "adversarial": float(len(batch.requests))}
    if batch.requests:
        terms_of = _REQUEST_TERMS.get(config.recipe.name, unattacked_terms)
        seed = runtime.derived_seed(config.seed, "attack", step)
        terms = terms_of(session.lm, batch.requests, config.attack, config.recipe, seed)
        (terms["loss"].sum() / batch.size).backward()  # type: ignore[no-untyped-call]
        _add(tally, {name: value.detach().sum() for name, value in terms.items()})
    if batch.benign:
        benign = encode_benign(session.lm, batch.benign, step, session.steps)
        _add(tally, learn_benign(session.lm, benign, config, session.average, 1 / batch.size))
    return tally


def _add(tally: Tally, sums: dict[str, Tensor]) -> None:
    for name, value in sums.items():
        tally[name] = tally.get(name, 0.0) + float(value)


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
    """Return the mean of each term over the examples that have it.

    Args:
        tally: sums over the examples of some steps.

    Example:
        >>> mean_terms({"examples": 8, "adversarial": 2, "loss": 4.0, "refusal_nll": 1.0, "utility_nll": 3.0, "forwards": 9})
        {'loss': 0.5, 'refusal_nll': 0.5, 'utility_nll': 0.5}
    """
    counts = {
        "loss": tally["examples"],
        "refusal_nll": tally["adversarial"],
        "target_nll": tally["adversarial"],
        "utility_nll": tally["examples"] - tally["adversarial"],
        "kl": tally["examples"] - tally["adversarial"],
    }
    return {name: tally[name] / count for name, count in counts.items() if name in tally}


def divergence(session: LanguageTrainState, tally: Tally) -> str | None:
    """Return what is not finite any more, so that it never reaches a checkpoint; None where all is finite.

    Args:
        session: the run.
        tally: sums of the last step.
    """
    return nonfinite_loss(tally["loss"]) or overflow(session.trainable_weights)

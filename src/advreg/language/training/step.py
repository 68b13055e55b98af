"""One step of training: both kinds of examples, each with an equal say."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from advreg import runtime
from advreg.language.attacks.result import count_model_passes
from advreg.language.training.batches import batch_at
from advreg.language.training.benign import learn_benign, reference_batch
from advreg.language.training.continuous import continuous, plain
from advreg.language.training.latent import latent
from advreg.language.training.setup import LanguageTrainState
from advreg.trainer.divergence import nonfinite_loss, overflow
from advreg.trainer.moment import Moment
from advreg.trainer.optimization import take_optimizer_step, trainable_parameters
from advreg.trainer.schedules import SCHEDULES

Tally = dict[str, float]
"""Sums over the examples of some steps, and how many of which kind there were."""

_HARMFUL: dict[str, Callable[..., dict[str, Tensor]]] = {"continuous": continuous, "latent": latent}


def take_step(session: LanguageTrainState, step: int) -> Tally:
    """Move the weights once, down the mean loss of the batch's examples, whichever kind each is of.

    What is drawn belongs to the seed and the step, so that a resumed run goes on as if it had never stopped.
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
    config = session.config
    batch = batch_at(session.stock, session.plan, step, config.seed)
    tally = {"examples": float(batch.size), "adversarial": float(len(batch.requests))}
    if batch.requests:
        attacked = _HARMFUL.get(config.recipe.name, plain)
        seed = runtime.derived_seed(config.seed, "attack", step)
        terms = attacked(session.lm, batch.requests, config.attack, config.recipe, seed)
        (terms["loss"].sum() / batch.size).backward()  # type: ignore[no-untyped-call]
        _add(tally, {name: value.detach().sum() for name, value in terms.items()})
    if batch.benign:
        ready = reference_batch(session.lm, batch.benign, step, session.steps)
        _add(tally, learn_benign(session.lm, ready, config, session.average, 1 / batch.size))
    return tally


def _add(tally: Tally, sums: dict[str, Tensor]) -> None:
    for name, value in sums.items():
        tally[name] = tally.get(name, 0.0) + float(value)


def plus(tally: Tally, more: Tally) -> Tally:
    """Return the sums of both.

    Example:
        >>> plus({"loss": 1.0}, {"loss": 2.0, "kl": 0.5})
        {'loss': 3.0, 'kl': 0.5}
    """
    return {name: tally.get(name, 0.0) + more.get(name, 0.0) for name in dict.fromkeys([*tally, *more])}


def means(tally: Tally) -> dict[str, float]:
    """Return each term's mean over the examples that have it.

    Example:
        >>> means({"examples": 8, "adversarial": 2, "loss": 4.0, "refusal_nll": 1.0, "utility_nll": 3.0, "forwards": 9})
        {'loss': 0.5, 'refusal_nll': 0.5, 'utility_nll': 0.5}
    """
    of = {
        "loss": tally["examples"],
        "refusal_nll": tally["adversarial"],
        "target_nll": tally["adversarial"],
        "utility_nll": tally["examples"] - tally["adversarial"],
        "kl": tally["examples"] - tally["adversarial"],
    }
    return {name: tally[name] / count for name, count in of.items() if name in tally}


def divergence(session: LanguageTrainState, tally: Tally) -> str | None:
    """Return what is not finite any more, so that it never reaches a checkpoint; None where all is finite.

    Args:
        session: the run.
        tally: sums of the last step.
    """
    return nonfinite_loss(tally["loss"]) or overflow(session.learning)

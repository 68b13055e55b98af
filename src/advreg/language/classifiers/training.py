"""Training of text classifiers: cross-entropy, FreeLB, SMART and ALUM."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advreg.errors import ConfigError
from advreg.language.classifiers.examples import check_examples
from advreg.language.classifiers.model import (
    TextClassifier,
    classifier_logits,
    embedding_width,
    mean_norm,
    tokenize_batch,
)
from advreg.language.perturbation import random_start, replayed_rng
from advreg.language.training.freelb import freelb
from advreg.language.training.smart import alum, regularizer_active, smart
from advreg.runtime import derived_seed, seed_everything
from advreg.trainer.optimization import take_optimizer_step

Method = Literal["plain", "freelb", "smart", "alum"]


@dataclass(frozen=True)
class ClassifierTraining:
    """The settings of a training run: AdamW, with a learning rate that decays linearly to zero.

    Attributes:
        method: ``"plain"`` (cross-entropy), ``"freelb"``, ``"smart"`` or ``"alum"``.
        epochs: passes over the data.
        batch_size: texts in one batch.
        lr: initial learning rate.
        weight_decay: weight decay of AdamW.
        seed: seed of order, dropout and perturbations.
        eps: radius of the perturbation of embeddings, as a fraction of their mean norm: the l2 norm over a whole text for
            freelb; for smart and alum the largest coordinate, as a fraction of the mean norm over ``sqrt(D)``.
        steps: gradient steps on the perturbation in each training step.
        weight: lambda, the weight of the term of smart and alum.
        clean_share: fraction of the training steps before the term of alum begins.
    """

    method: Method = "plain"
    epochs: int = 2
    batch_size: int = 32
    lr: float = 2e-4
    weight_decay: float = 0.01
    seed: int = 0
    eps: float = 0.1
    steps: int = 2
    weight: float = 1.0
    clean_share: float = 0.5


def fit_classifier(
    classifier: TextClassifier,
    texts: Sequence[str],
    labels: Sequence[int],
    fitting: ClassifierTraining = ClassifierTraining(),
    on_step: Callable[[int, int, float], None] | None = None,
) -> TextClassifier:
    """Train all weights of a classifier in place, and return it in eval mode.

    Order, dropout and perturbations depend on the seed and the step only, so a run is reproducible on the same machine.

    Args:
        classifier: the classifier.
        texts: training texts.
        labels: class of each text, 0 to K - 1.
        fitting: method and hyperparameters.
        on_step: called with step, number of steps and loss after each step.

    Returns:
        ``classifier``.

    Raises:
        ConfigError: the method is unknown, or a number is out of range.
        DataError: there are no texts, their number is not that of the labels, or a label is no class of the head.
        ModelError: the head has no classes that exclude each other.

    Example:
        >>> fit_classifier(None, ["good"], [1], ClassifierTraining(method="pgd"))
        Traceback (most recent call last):
        advreg.errors.ConfigError: method is 'pgd'; allowed: plain, freelb, smart, alum

    Reference: Zhu et al., "FreeLB: Enhanced adversarial training for natural language understanding", ICLR 2020,
    arXiv:1909.11764; Jiang et al., "SMART: Robust and efficient fine-tuning for pre-trained natural language models through
    principled regularized optimization", ACL 2020, arXiv:1911.03437; Liu et al., "Adversarial training for large neural
    language models" (ALUM), 2020, arXiv:2004.08994.
    """
    session = start_session(classifier, texts, labels, fitting)
    steps = fitting.epochs * session.epoch_steps
    for step in range(steps):
        loss = take_step(session, step)
        if on_step is not None:
            on_step(step + 1, steps, loss)
    classifier.network.eval()
    return classifier


@dataclass(frozen=True)
class TextTrainingSession:
    """The objects of a training run; training changes the state of network and optimizer.

    Attributes:
        classifier: the classifier.
        texts: training texts.
        truth: class of each text ``(N,)``.
        fitting: method and hyperparameters.
        optimizer: AdamW over all weights.
        unit: mean embedding norm before training, the unit of ``eps``.
    """

    classifier: TextClassifier
    texts: Sequence[str]
    truth: Tensor
    fitting: ClassifierTraining
    optimizer: torch.optim.AdamW
    unit: float

    @property
    def epoch_steps(self) -> int:
        """Training steps of an epoch."""
        return math.ceil(len(self.texts) / self.fitting.batch_size)


def start_session(
    classifier: TextClassifier, texts: Sequence[str], labels: Sequence[int], fitting: ClassifierTraining
) -> TextTrainingSession:
    """Return the objects of a run, after checking settings and labels.

    Args:
        classifier: the classifier.
        texts: training texts.
        labels: class of each text, 0 to K - 1.
        fitting: method and hyperparameters.

    Returns:
        The session.

    Raises:
        ConfigError: the method is unknown, or a number is out of range.
        DataError: there are no texts, their number is not that of the labels, or a label is no class of the head.
        ModelError: the head has no classes that exclude each other.
    """
    _check(fitting)
    check_examples(classifier, texts, labels)
    truth = torch.tensor([int(label) for label in labels], device=classifier.device)
    optimizer = torch.optim.AdamW(classifier.network.parameters(), lr=fitting.lr, weight_decay=fitting.weight_decay)
    return TextTrainingSession(classifier, texts, truth, fitting, optimizer, mean_norm(classifier))


def take_step(session: TextTrainingSession, step: int) -> float:
    """Take one training step, which depends on the seed and its number only; return the loss.

    Args:
        session: the run.
        step: number of the step, over all epochs.
    """
    classifier, fitting = session.classifier, session.fitting
    steps = fitting.epochs * session.epoch_steps
    epoch, place = divmod(step, session.epoch_steps)
    ids = _batches(len(session.texts), fitting.batch_size, fitting.seed, epoch)[place]
    classifier.network.train()
    seed_everything(derived_seed(fitting.seed, "step", step))
    session.optimizer.param_groups[0]["lr"] = fitting.lr * (1 - step / steps)

    def add_gradients() -> Tensor:
        at = _TrainingStep(step, steps, session.unit, ids)
        texts = [session.texts[i] for i in ids.tolist()]
        return _METHODS[fitting.method](classifier, texts, session.truth[ids], fitting, at)

    return float(take_optimizer_step(session.optimizer, add_gradients, clip=1.0))


@dataclass(frozen=True)
class _TrainingStep:
    """One training step: its number, the number of steps, the unit of ``eps``, and the example ids of the batch."""

    step: int
    steps: int
    unit: float
    ids: Tensor


@lru_cache(maxsize=2)
def _batches(count: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Return the example ids of each batch of an epoch, shuffled anew in each."""
    draws = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    batches: tuple[Tensor, ...] = torch.randperm(count, generator=draws).split(batch_size)  # type: ignore[no-untyped-call]
    return batches


def _plain_step(
    classifier: TextClassifier, texts: list[str], labels: Tensor, fitting: ClassifierTraining, at: _TrainingStep
) -> Tensor:
    """Run a backward pass of cross-entropy; return the loss."""
    loss = cross_entropy(classifier_logits(classifier, tokenize_batch(classifier, texts)), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _freelb_step(
    classifier: TextClassifier, texts: list[str], labels: Tensor, fitting: ClassifierTraining, at: _TrainingStep
) -> Tensor:
    """Run the backward passes of FreeLB; return the loss."""
    batch, eps = tokenize_batch(classifier, texts), fitting.eps * at.unit
    shape = batch.ids.shape[1], embedding_width(classifier)
    start = random_start(at.ids, shape, eps / (shape[0] * shape[1]) ** 0.5, _seed(fitting, at))

    def loss(delta: Tensor) -> Tensor:
        return cross_entropy(classifier_logits(classifier, batch, delta), labels)

    return freelb(loss, start, eps=eps, steps=fitting.steps, step_size=eps / fitting.steps, where=batch.content)


def _smoothness_step(
    classifier: TextClassifier, texts: list[str], labels: Tensor, fitting: ClassifierTraining, at: _TrainingStep
) -> Tensor:
    """Run a backward pass of SMART or ALUM; clean and perturbed logits share their dropout masks."""
    batch = tokenize_batch(classifier, texts)
    width = embedding_width(classifier)
    coordinate = fitting.eps * at.unit / width**0.5
    start = random_start(at.ids, (batch.ids.shape[1], width), 0.1 * coordinate, _seed(fitting, at))
    with replayed_rng() as rewind:
        clean = classifier_logits(classifier, batch)
        loss = cross_entropy(clean, labels)
        if fitting.method == "smart" or regularizer_active(at.step, at.steps, fitting.clean_share):
            rewind()
            term = (smart if fitting.method == "smart" else alum)(
                lambda delta: classifier_logits(classifier, batch, delta),
                clean,
                start,
                eps=coordinate,
                steps=fitting.steps,
                step_size=coordinate,
                where=batch.content,
            )
            loss = loss + fitting.weight * term.mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


_METHODS: dict[str, Callable[..., Tensor]] = {
    "plain": _plain_step,
    "freelb": _freelb_step,
    "smart": _smoothness_step,
    "alum": _smoothness_step,
}


def _seed(fitting: ClassifierTraining, at: _TrainingStep) -> int:
    """Return the seed of the starting points of a training step."""
    return derived_seed(fitting.seed, "start", at.step)


def _check(fitting: ClassifierTraining) -> None:
    """Raise unless the settings are in range."""
    if fitting.method not in _METHODS:
        raise ConfigError(f"method is {fitting.method!r}; allowed: {', '.join(_METHODS)}")
    for key in ("epochs", "batch_size", "lr", "steps"):
        if getattr(fitting, key) <= 0:
            raise ConfigError(f"{key} is {getattr(fitting, key)}; give a number above 0")
    if fitting.eps < 0:
        raise ConfigError(f"eps is {fitting.eps}; give 0 or more")

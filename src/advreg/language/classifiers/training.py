"""Training of text classifiers: cross-entropy, FreeLB, SMART and ALUM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
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
    _check(fitting)
    check_examples(classifier, texts, labels)
    network, batches = classifier.network, list(_batches(len(texts), fitting))
    optimizer = torch.optim.AdamW(network.parameters(), lr=fitting.lr, weight_decay=fitting.weight_decay)
    unit, truth = mean_norm(classifier), torch.tensor(labels, device=classifier.device)
    network.train()
    for step, ids in enumerate(batches):
        seed_everything(derived_seed(fitting.seed, "step", step))
        optimizer.param_groups[0]["lr"] = fitting.lr * (1 - step / len(batches))
        optimizer.zero_grad(set_to_none=True)
        at = _TrainingStep(step, len(batches), unit, ids)
        loss = _METHODS[fitting.method](classifier, [texts[i] for i in ids.tolist()], truth[ids], fitting, at)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, len(batches), float(loss))
    network.eval()
    return classifier


@dataclass(frozen=True)
class _TrainingStep:
    """One training step: its number, the number of steps, the unit of ``eps``, and the example ids of the batch."""

    step: int
    steps: int
    unit: float
    ids: Tensor


def _batches(count: int, fitting: ClassifierTraining) -> Iterator[Tensor]:
    """Yield example ids of each batch, shuffled anew in each epoch."""
    for epoch in range(fitting.epochs):
        draws = torch.Generator().manual_seed(derived_seed(fitting.seed, "order", epoch))
        yield from torch.randperm(count, generator=draws).split(fitting.batch_size)  # type: ignore[no-untyped-call]


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

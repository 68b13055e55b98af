"""Training of text classifiers: plain, FreeLB, SMART and ALUM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advreg.errors import ConfigError, DataError
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
    """How a classifier is trained.

    Attributes:
        method: ``"plain"``, ``"freelb"``, ``"smart"`` or ``"alum"``.
        epochs, batch_size, lr, weight_decay, seed: of AdamW, with a learning rate that falls linearly to zero.
        eps: how far embeddings move, relative to their mean norm: l2 of a whole text for freelb; for the others each
            coordinate, relative to what it then is on average.
        steps: ascents a step of training.
        weight: lambda of smart and alum.
        clean_share: share of training before alum's term begins.
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
    """Train a classifier in place, and return it in eval mode.

    Equal arguments give equal weights on the same machine: order, dropout and perturbations depend on the seed and the step.

    Args:
        classifier: what to train, all its weights.
        texts, labels: the examples, labels 0 to K - 1.
        fitting: the method and its numbers.
        on_step: called with step, steps and loss after each step.

    Raises:
        ConfigError: an unknown method, or a number that is not allowed.
        DataError: no texts, or another number of labels.
    """
    _check(fitting, texts, labels)
    network, batches = classifier.network, list(_batches(len(texts), fitting))
    optimizer = torch.optim.AdamW(network.parameters(), lr=fitting.lr, weight_decay=fitting.weight_decay)
    unit, truth = mean_norm(classifier), torch.tensor(labels, device=classifier.device)
    network.train()
    for step, ids in enumerate(batches):
        seed_everything(derived_seed(fitting.seed, "step", step))
        optimizer.param_groups[0]["lr"] = fitting.lr * (1 - step / len(batches))
        optimizer.zero_grad(set_to_none=True)
        moment = _TrainingPosition(step, len(batches), unit, ids)
        loss = _METHODS[fitting.method](classifier, [texts[i] for i in ids.tolist()], truth[ids], fitting, moment)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, len(batches), float(loss))
    network.eval()
    return classifier


@dataclass(frozen=True)
class _TrainingPosition:
    """Where training is: step of steps, the unit of eps, the ids of the batch's examples."""

    step: int
    steps: int
    unit: float
    ids: Tensor


def _batches(count: int, fitting: ClassifierTraining) -> Iterator[Tensor]:
    for epoch in range(fitting.epochs):
        draws = torch.Generator().manual_seed(derived_seed(fitting.seed, "order", epoch))
        yield from torch.randperm(count, generator=draws).split(fitting.batch_size)  # type: ignore[no-untyped-call]


def _plain_step(
    classifier: TextClassifier, texts: list[str], labels: Tensor, fitting: ClassifierTraining, moment: _TrainingPosition
) -> Tensor:
    loss = cross_entropy(classifier_logits(classifier, tokenize_batch(classifier, texts)), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _freelb_step(
    classifier: TextClassifier, texts: list[str], labels: Tensor, fitting: ClassifierTraining, moment: _TrainingPosition
) -> Tensor:
    batch, eps = tokenize_batch(classifier, texts), fitting.eps * moment.unit
    shape = batch.ids.shape[1], embedding_width(classifier)
    start = random_start(moment.ids, shape, eps / (shape[0] * shape[1]) ** 0.5, _seed(fitting, moment))

    def loss(delta: Tensor) -> Tensor:
        return cross_entropy(classifier_logits(classifier, batch, delta), labels)

    return freelb(loss, start, eps=eps, steps=fitting.steps, step_size=eps / fitting.steps, where=batch.content)


def _smoothness_step(
    classifier: TextClassifier, texts: list[str], labels: Tensor, fitting: ClassifierTraining, moment: _TrainingPosition
) -> Tensor:
    """Learn with the term of SMART or ALUM; clean and perturbed answers see the same dropout mask."""
    batch = tokenize_batch(classifier, texts)
    width = embedding_width(classifier)
    coordinate = fitting.eps * moment.unit / width**0.5
    start = random_start(moment.ids, (batch.ids.shape[1], width), 0.1 * coordinate, _seed(fitting, moment))
    with replayed_rng() as rewind:
        clean = classifier_logits(classifier, batch)
        loss = cross_entropy(clean, labels)
        if fitting.method == "smart" or regularizer_active(moment.step, moment.steps, fitting.clean_share):
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


def _seed(fitting: ClassifierTraining, moment: _TrainingPosition) -> int:
    return derived_seed(fitting.seed, "start", moment.step)


def _check(fitting: ClassifierTraining, texts: Sequence[str], labels: Sequence[int]) -> None:
    if fitting.method not in _METHODS:
        raise ConfigError(f"method is {fitting.method!r}; allowed: {', '.join(_METHODS)}")
    for key in ("epochs", "batch_size", "lr", "steps"):
        if getattr(fitting, key) <= 0:
            raise ConfigError(f"{key} is {getattr(fitting, key)}; give a number above 0")
    if fitting.eps < 0:
        raise ConfigError(f"eps is {fitting.eps}; give 0 or more")
    if not texts or len(texts) != len(labels):
        raise DataError(
            f"there are {len(texts)} texts and {len(labels)} labels; give as many of each, and at least one"
        )

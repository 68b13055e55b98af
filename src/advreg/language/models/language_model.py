"""`LanguageModel`: a network with its tokenizer and its system prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

_LENGTHS = ("max_position_embeddings", "n_positions", "seq_length")
_UNBOUNDED = 2**31 - 1
"""Context length of a model without a limit, for which tokenizers give a number of thirty digits."""


@dataclass(frozen=True)
class LanguageModel:
    """A network with its tokenizer.

    Attributes:
        network: a causal language model of transformers, with or without a peft adapter.
        tokenizer: a fast tokenizer with a chat template.
        name: name it was loaded by, for messages and results.
        system: system prompt of every conversation; the chat template's default if None.
    """

    network: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str
    system: str | None = None

    @property
    def context(self) -> int:
        """Context length in tokens, prompt and answer together."""
        config = text_config(self.network)
        limits = [getattr(config, key, None) for key in _LENGTHS] + [self.tokenizer.model_max_length]
        return min([length for length in limits if isinstance(length, int) and length > 0], default=_UNBOUNDED)

    @property
    def device(self) -> torch.device:
        """Device of the embeddings, where token ids belong."""
        device: torch.device = self.network.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the embeddings."""
        dtype: torch.dtype = self.network.get_input_embeddings().weight.dtype
        return dtype

    @property
    def dim(self) -> int:
        """Width ``D`` of the embeddings."""
        return int(self.network.get_input_embeddings().weight.shape[-1])


def text_config(network: Any) -> Any:
    """Return the configuration of a network's text part, beside encoders of images and sound.

    Args:
        network: a network of transformers, with or without a peft adapter.
    """
    config = network.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config

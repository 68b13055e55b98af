"""Language models by name: a folder, a hub id, a GGUF file, the small one in a package, or a factory of the user's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advreg.errors import ConfigError, ModelError
from advreg.language.models.gguf import EXTRA as EXTRA
from advreg.language.models.gguf import convert_gguf, packaged_gguf
from advreg.language.models.gguf import hide_progress_bars as hide_progress_bars
from advreg.plugins import call_factory, first_line, import_extra, is_factory

DTYPES = {kind: getattr(torch, kind) for kind in ("float32", "bfloat16", "float16", "float64")}

_LENGTHS = ("max_position_embeddings", "n_positions", "seq_length")
_UNBOUNDED = 2**31 - 1
"""Tokens of a model that names no limit; tokenizers say so by a number of thirty digits."""


@dataclass(frozen=True)
class LanguageModel:
    """A network with the tokenizer that feeds it.

    Attributes:
        network: a causal language model or a sequence classifier of transformers, wrapped by peft or not.
        tokenizer: a fast tokenizer; for conversations it carries a chat template.
        name: what it was loaded by, for messages and results.
    """

    network: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str

    @property
    def context(self) -> int:
        """Tokens that fit, the answer's among them."""
        said = [getattr(self.network.config, key, None) for key in _LENGTHS] + [self.tokenizer.model_max_length]
        return min([length for length in said if isinstance(length, int) and length > 0], default=_UNBOUNDED)

    @property
    def device(self) -> torch.device:
        """Where the embeddings lie, and so where token ids must go."""
        device: torch.device = self.network.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the weights."""
        dtype: torch.dtype = self.network.get_input_embeddings().weight.dtype
        return dtype

    @property
    def dim(self) -> int:
        """Numbers in the embedding of one token."""
        return int(self.network.get_input_embeddings().weight.shape[-1])


def load(name: str, *, dtype: str = "float32", device: str = "cpu") -> LanguageModel:
    """Return a causal language model by name, in eval mode.

    A hub id is fetched by the hub's own library, which is told to stay offline by ``HF_HUB_OFFLINE=1``. Code that a repository
    carries is never run, and weights are read from safetensors only. A GGUF file is converted once and kept in a cache.

    Args:
        name: a folder, ``hf:org/name``, ``hf-gguf:smollm2``, ``gguf:file.gguf``, or ``pkg.module:factory`` that returns
            ``(network, tokenizer)``.
        dtype: ``"float32"`` to judge by; ``"bfloat16"`` is faster where the processor multiplies it.
        device: where it runs.

    Raises:
        ModelError: no such model, or one that cannot be read safely.
        ConfigError: another dtype.
        MissingExtraError: transformers is not installed.

    Example:
        >>> load("gguf:nowhere.gguf")
        Traceback (most recent call last):
        advreg.errors.ModelError: there is no file nowhere.gguf; give gguf:PATH of a GGUF file
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
    network, tokenizer = _load_network(name, DTYPES[dtype])
    return LanguageModel(network.to(device=device, dtype=DTYPES[dtype]).eval(), tokenizer, name)


def _load_network(name: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    scheme, _, rest = name.partition(":")
    places: dict[str, Callable[[], Path | str]] = {
        "hf": lambda: rest,
        "gguf": lambda: convert_gguf(Path(rest)),
        "hf-gguf": lambda: convert_gguf(packaged_gguf(rest)),
    }
    if scheme in places and rest:
        return load_pretrained(places[scheme](), name, dtype)
    if is_factory(name):
        return _require_pair(name, call_factory(name, ModelError))
    if not (Path(name) / "config.json").is_file():
        forms = "a folder with a config.json, hf:org/name, hf-gguf:smollm2, gguf:file.gguf or pkg.module:factory"
        raise ModelError(f"there is no language model {name!r}; give {forms}")
    return load_pretrained(name, name, dtype)


def load_pretrained(place: Path | str, name: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """Read a causal language model and its tokenizer from a folder or the hub: safetensors only, no code of theirs.

    Raises:
        ModelError: they cannot be read.
    """
    transformers = import_extra("transformers", EXTRA)
    safe = {"trust_remote_code": False}
    try:
        with hide_progress_bars():
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, **safe)
            network = transformers.AutoModelForCausalLM.from_pretrained(
                place, dtype=dtype, use_safetensors=True, **safe
            )
    except Exception as cause:  # the library raises errors of many kinds
        raise ModelError(f"{name} cannot be loaded: {first_line(cause)}") from cause
    return network, tokenizer


def _require_pair(name: str, made: object) -> tuple[nn.Module, Any]:
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module) and callable(made[1])):
        raise ModelError(f"{name} returned {type(made).__name__}; it must return (network, tokenizer)")
    return made


def copy_with_dtype(lm: LanguageModel, dtype: str) -> LanguageModel:
    """Return a copy of a model in another precision: a fast one to search with, while the original judges.

    Raises:
        ConfigError: no such dtype.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
    return replace(lm, network=copy.deepcopy(lm.network).to(DTYPES[dtype]))

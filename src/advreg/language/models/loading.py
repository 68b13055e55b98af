"""Language models by name: a folder, a hub id, a GGUF file, a packaged model or a factory function."""

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
"""Context length of a model without a limit, for which tokenizers give a number of thirty digits."""


@dataclass(frozen=True)
class LanguageModel:
    """A network with its tokenizer.

    Attributes:
        network: a causal language model of transformers, with or without a peft adapter.
        tokenizer: a fast tokenizer with a chat template.
        name: name it was loaded by, for messages and results.
    """

    network: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str

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


def load(name: str, *, dtype: str = "float32", device: str = "cpu") -> LanguageModel:
    """Return a causal language model by name, in eval mode.

    The library of the hub downloads a hub id, unless ``HF_HUB_OFFLINE=1``. Code of a repository never runs, and weights are
    read from safetensors only. A GGUF file is converted once and cached.

    Args:
        name: a folder, ``hf:org/name``, ``hf-gguf:smollm2``, ``gguf:file.gguf``, or ``pkg.module:factory`` that returns
            ``(network, tokenizer)``.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"float64"``; report results in float32.
        device: device of the network.

    Returns:
        A `LanguageModel`.

    Raises:
        ModelError: the model does not exist or is not readable safely.
        ConfigError: the dtype is not allowed.
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
    """Return network and tokenizer of a name, by its scheme."""
    scheme, _, rest = name.partition(":")
    sources: dict[str, Callable[[], Path | str]] = {
        "hf": lambda: rest,
        "gguf": lambda: convert_gguf(Path(rest)),
        "hf-gguf": lambda: convert_gguf(packaged_gguf(rest)),
    }
    if scheme in sources and rest:
        return load_pretrained(sources[scheme](), name, dtype)
    if is_factory(name):
        return _require_pair(name, call_factory(name, ModelError))
    if not (Path(name) / "config.json").is_file():
        forms = "a folder with a config.json, hf:org/name, hf-gguf:smollm2, gguf:file.gguf or pkg.module:factory"
        raise ModelError(f"there is no language model {name!r}; give {forms}")
    return load_pretrained(name, name, dtype)


def load_pretrained(place: Path | str, name: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """Read a causal language model and its tokenizer from a folder or the hub: safetensors only, without remote code.

    Args:
        place: folder or hub id.
        name: name of the model, for messages.
        dtype: dtype of the weights.

    Raises:
        ModelError: transformers cannot read them.
        MissingExtraError: transformers is not installed.
    """
    transformers = import_extra("transformers", EXTRA)
    safe = {"trust_remote_code": False}
    try:
        with hide_progress_bars():
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, **safe)
            network = transformers.AutoModelForCausalLM.from_pretrained(
                place, dtype=dtype, use_safetensors=True, **safe
            )
    except Exception as cause:  # transformers raises errors of many kinds
        raise ModelError(f"{name} cannot be loaded: {first_line(cause)}; check its name and its files") from cause
    return network, tokenizer


def _require_pair(name: str, returned: object) -> tuple[nn.Module, Any]:
    """Return what a factory returned, if it is a network and a tokenizer."""
    if not (
        isinstance(returned, tuple)
        and len(returned) == 2
        and isinstance(returned[0], nn.Module)
        and callable(returned[1])
    ):
        raise ModelError(f"{name} returned {type(returned).__name__}; it must return (network, tokenizer)")
    return returned


def copy_with_dtype(lm: LanguageModel, dtype: str) -> LanguageModel:
    """Return a copy of a model in another precision, such as a bfloat16 copy for the search of an attack.

    Args:
        lm: the model.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"float64"``.

    Raises:
        ConfigError: the dtype is not allowed.

    Example:
        >>> copy_with_dtype(None, "int8")
        Traceback (most recent call last):
        advreg.errors.ConfigError: dtype is 'int8'; allowed: float32, bfloat16, float16, float64
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
    return replace(lm, network=copy.deepcopy(lm.network).to(DTYPES[dtype]))

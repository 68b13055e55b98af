"""Language models by name: a folder, a hub id, a GGUF file, a packaged model, a peft adapter or a factory function."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from advreg.errors import ConfigError, ModelError
from advreg.language.models.adapters import CONFIG as ADAPTER_CONFIG
from advreg.language.models.adapters import base_of, load_adapter
from advreg.language.models.endpoint import connect, is_endpoint
from advreg.language.models.gguf import EXTRA as EXTRA
from advreg.language.models.gguf import convert_gguf, packaged_gguf
from advreg.language.models.gguf import hide_progress_bars as hide_progress_bars
from advreg.language.models.language_model import LanguageModel as LanguageModel
from advreg.language.models.language_model import text_config as text_config
from advreg.plugins import call_factory, first_line, import_extra, is_factory

DTYPES = {kind: getattr(torch, kind) for kind in ("float32", "bfloat16", "float16", "float64")}


def load(name: str, *, dtype: str = "float32", device: str = "cpu", quantization: str = "none") -> LanguageModel:
    """Return a causal language model by name, in eval mode.

    The library of the hub downloads a hub id, unless ``HF_HUB_OFFLINE=1``. Code of a repository never runs, and weights are
    read from safetensors only. A GGUF file is converted once and cached.

    Args:
        name: a folder of a model or of a peft adapter, ``hf:org/name`` or ``hf:org/name@revision``, ``hf-gguf:smollm2``,
            ``gguf:file.gguf``, ``pkg.module:factory`` that returns ``(network, tokenizer)``, or ``http(s)://HOST/v1#MODEL`` of
            an OpenAI-compatible service, which attacks in words can query.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"float64"``; report results in float32.
        device: device of the network; ``"auto"`` spreads the layers over all GPUs, which needs accelerate.
        quantization: ``"nf4"`` keeps the weights in 4 bits, which needs bitsandbytes; ``"none"`` does not.

    Returns:
        A `LanguageModel`.

    Raises:
        ModelError: the model does not exist or is not readable safely.
        WeightsError: an adapter is not readable, or not for its base model.
        ConfigError: the dtype is not allowed, a factory is given with quantization or device ``"auto"``, or
            quantization without a CUDA device.
        MissingExtraError: transformers, peft, accelerate or bitsandbytes is needed and not installed.

    Example:
        >>> load("gguf:nowhere.gguf")
        Traceback (most recent call last):
        advreg.errors.ModelError: there is no file nowhere.gguf; give gguf:PATH of a GGUF file
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
    if is_endpoint(name):
        return connect(name)
    if (Path(name) / ADAPTER_CONFIG).is_file():
        base = load(base_of(name), dtype=dtype, device=device, quantization=quantization)
        return replace(load_adapter(base, name), name=name)
    network, tokenizer = _load_network(name, DTYPES[dtype], _placement(device, quantization, DTYPES[dtype]))
    if device != "auto" and quantization == "none":
        network = network.to(device=device, dtype=DTYPES[dtype])
    return LanguageModel(network.eval(), tokenizer, name)


def _placement(device: str, quantization: str, dtype: torch.dtype) -> dict[str, Any]:
    """Return the options of transformers that spread a model over devices, and keep it in 4 bits."""
    options: dict[str, Any] = {}
    if device == "auto":
        import_extra("accelerate", "accelerate")
        options["device_map"] = "auto"
    if quantization != "none":
        import_extra("bitsandbytes", "bitsandbytes")
        if not torch.cuda.is_available() or device == "cpu":
            raise ConfigError(
                f"quantization is {quantization!r} on device {device!r}; 4-bit weights need CUDA: give a CUDA device, or 'none'"
            )
        config = import_extra("transformers", EXTRA).BitsAndBytesConfig
        four_bits = config(load_in_4bit=True, bnb_4bit_quant_type=quantization, bnb_4bit_compute_dtype=dtype)
        options |= {"quantization_config": four_bits, "device_map": options.get("device_map", {"": device})}
    return options


def _load_network(name: str, dtype: torch.dtype, placement: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    """Return network and tokenizer of a name, by its scheme."""
    scheme, _, rest = name.partition(":")
    sources: dict[str, Callable[[], Path | str]] = {
        "hf": lambda: rest,
        "gguf": lambda: convert_gguf(Path(rest)),
        "hf-gguf": lambda: convert_gguf(packaged_gguf(rest)),
    }
    if scheme in sources and rest:
        return load_pretrained(sources[scheme](), name, dtype, placement)
    if is_factory(name):
        if placement:
            raise ConfigError(
                f"{name} is a factory, which places its network itself; name a device and no quantization"
            )
        return _require_pair(name, call_factory(name, ModelError))
    if not (Path(name) / "config.json").is_file():
        forms = "a folder with a config.json or an adapter_config.json, hf:org/name, hf-gguf:smollm2, gguf:file.gguf"
        raise ModelError(f"there is no language model {name!r}; give {forms} or pkg.module:factory")
    return load_pretrained(name, name, dtype, placement)


def load_pretrained(
    place: Path | str, name: str, dtype: torch.dtype, placement: Mapping[str, Any] = MappingProxyType({})
) -> tuple[nn.Module, Any]:
    """Read a causal language model and its tokenizer from a folder or the hub: safetensors only, without remote code.

    Args:
        place: folder, hub id, or ``id@revision``.
        name: name of the model, for messages.
        dtype: dtype of the weights.
        placement: further options of transformers, such as ``device_map``.

    Returns:
        The network and its tokenizer.

    Raises:
        ModelError: transformers cannot read them.
        MissingExtraError: transformers is not installed.
    """
    transformers = import_extra("transformers", EXTRA)
    safe: dict[str, Any] = {"trust_remote_code": False}
    if isinstance(place, str) and not Path(place).is_dir():
        place, _, revision = place.partition("@")
        safe["revision"] = revision or "main"
    try:
        with hide_progress_bars():
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, **safe)
            network = transformers.AutoModelForCausalLM.from_pretrained(
                place, dtype=dtype, use_safetensors=True, **safe, **placement
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

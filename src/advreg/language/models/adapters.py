"""Low-rank adapters (LoRA) in peft's format: trained weights that are scaled, switched off and saved beside a base model."""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from advreg.documents import parse_json, read_text
from advreg.errors import ConfigError, ModelError, WeightsError
from advreg.language.models.gguf import EXTRA
from advreg.language.models.language_model import LanguageModel
from advreg.plugins import check_file_name, first_line, import_extra
from advreg.runs import RunFolder
from advreg.runs.weights import serialise

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base.json"
FIRST_FORMAT = ("adapter.json", "adapter.safetensors")
"""Files of an adapter before it was written in peft's format."""


def with_lora(lm: LanguageModel, rank: int = 8, alpha: float = 16, seed: int = 0) -> LanguageModel:
    """Return the model with an adapter ``W + (alpha / rank) B A`` on every linear layer but the last; only A and B are trained.

    The network of ``lm`` is changed in place. B is zero at first, so the outputs stay the same.

    Args:
        lm: a model without adapter.
        rank: number of rows of A.
        alpha: scale of the adapter.
        seed: seed of the initial A; torch's generators are not changed.

    Returns:
        A `LanguageModel` with the adapter.

    Raises:
        ConfigError: ``rank`` is below 1, or the model has an adapter.
        MissingExtraError: peft is not installed.

    Example:
        >>> from types import SimpleNamespace
        >>> with_lora(SimpleNamespace(network=torch.nn.Linear(2, 2)), rank=0)
        Traceback (most recent call last):
        advreg.errors.ConfigError: rank is 0 and the model has no adapter; give a rank >= 1 and a model without adapter

    Reference: Hu et al., "LoRA: Low-rank adaptation of large language models", ICLR 2022, arXiv:2106.09685.
    """
    if rank < 1 or has_adapter(lm):
        article = "an" if has_adapter(lm) else "no"
        raise ConfigError(
            f"rank is {rank} and the model has {article} adapter; give a rank >= 1 and a model without adapter"
        )
    peft = import_extra("peft", EXTRA)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return _with_config(lm, config, seed)


def _with_config(lm: LanguageModel, config: Any, seed: int = 0) -> LanguageModel:
    """Return the model with a new adapter of peft; its base model is recorded by the name that `load` takes."""
    config.base_model_name_or_path, config.inference_mode = None, False
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of one library about the other
        torch.manual_seed(seed)
        network = import_extra("peft", EXTRA).get_peft_model(lm.network, config)
    config.base_model_name_or_path = lm.name.removeprefix("hf:").partition("@")[0]
    config.revision = _revision(lm)
    return replace(lm, network=network)


def has_adapter(lm: LanguageModel) -> bool:
    """Return whether the model has an adapter."""
    return any(hasattr(module, "lora_A") for module in lm.network.modules())


def _layers(lm: LanguageModel) -> list[Any]:
    """Return the layers with a LoRA adapter."""
    return [module for module in lm.network.modules() if hasattr(module, "lora_A") and hasattr(module, "scaling")]


@contextmanager
def adapter_scale(lm: LanguageModel, scale: float) -> Iterator[None]:
    """Scale the adapter inside the ``with`` statement: 0 is the base model, 1 the trained model.

    Args:
        lm: a model with an adapter.
        scale: factor on the adapter's output.

    Raises:
        ConfigError: the model has no adapter.
    """
    layers = _layers(lm)
    if not layers:
        raise ConfigError(f"{lm.name} has no adapter to scale; train one, or load it with load_adapter")
    before = [dict(layer.scaling) for layer in layers]
    for layer, scaling in zip(layers, before, strict=True):
        layer.scaling = {key: value * scale for key, value in scaling.items()}
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling = scaling


def adapter_off(lm: LanguageModel) -> AbstractContextManager[None]:
    """Return a context manager that switches the adapter off, such as for the reference of a KL term.

    Raises:
        ConfigError: on entry, if the model has no adapter.
    """
    return adapter_scale(lm, 0.0)


def save_adapter(lm: LanguageModel, folder: str | Path | RunFolder, scale: float = 1.0) -> None:
    """Write a folder that ``peft.PeftModel.from_pretrained(base, folder)`` loads, and the hash of the base weights.

    Args:
        lm: a model with an adapter.
        folder: the folder; the files ``adapter_config.json``, ``adapter_model.safetensors`` and ``base.json`` in it.
        scale: factor on the adapter's output.

    Raises:
        ConfigError: the model has no adapter.
        RunError: the folder is not writable.
    """
    if not has_adapter(lm):
        raise ConfigError(f"{lm.name} has no adapter to save; make one with with_lora")
    config = lm.network.peft_config["default"].to_dict()
    config["inference_mode"] = True
    if scale != 1:
        config["lora_alpha"] *= scale
    state = import_extra("peft", EXTRA).get_peft_model_state_dict(lm.network, save_embedding_layers=False)
    run = RunFolder.at(Path(folder))
    run.write(WEIGHTS, serialise(state))
    run.write(CONFIG, json.dumps(config, indent=2, sort_keys=True, default=sorted) + "\n")  # sets: in one order
    run.write_json(BASE, base_record(lm))


def load_adapter(lm: LanguageModel, folder: str | Path | RunFolder) -> LanguageModel:
    """Return the model with the adapter of a folder in peft's format, such as a run folder.

    Args:
        lm: the base model that the adapter was trained on, without adapter.
        folder: the folder.

    Raises:
        RunError: there is no such folder.
        WeightsError: the folder has no readable adapter, or one of another model.
        ConfigError: the model has an adapter.
        MissingExtraError: peft is not installed.
    """
    run = RunFolder.open(Path(folder))
    if has_adapter(lm):
        raise ConfigError(f"{lm.name} has an adapter already; load its base model")
    read = _read_peft if (run / CONFIG).is_file() else _read_first_format
    try:
        config, state = read(run)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as cause:
        raise WeightsError(
            f"{run.path} has no readable adapter: {first_line(cause)}; give a folder with {CONFIG} and {WEIGHTS}"
        ) from cause
    trained_on = config.base_model_name_or_path
    _check_base(lm, run)
    adapted = _with_config(lm, config)
    try:
        result = import_extra("peft", EXTRA).set_peft_model_state_dict(adapted.network, state)
        strangers = [*result.unexpected_keys, *(key for key in result.missing_keys if "lora_" in key)]
    except RuntimeError as cause:
        strangers = [first_line(cause)]
    if strangers:
        raise WeightsError(f"the adapter in {run.path} is for {trained_on}, not for {lm.name}; load that model")
    return adapted


def _read_peft(run: RunFolder) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return configuration and weights of an adapter; no pickle is read and no module of its choice imported."""
    values = parse_json(read_text(run / CONFIG))
    if values.get("megatron_config"):
        raise ValueError("megatron_config names code")
    config = import_extra("peft", EXTRA).PeftConfig.from_pretrained(str(run.path))
    return config, load_file(run / WEIGHTS)


def _read_first_format(run: RunFolder) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return an adapter of the first format; its keys are names of the module."""
    facts = parse_json(read_text(run / FIRST_FORMAT[0]))
    config = import_extra("peft", EXTRA).LoraConfig(
        r=int(facts["rank"]),
        lora_alpha=float(facts["alpha"]),
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        base_model_name_or_path=facts.get("model"),
    )
    state = load_file(run / FIRST_FORMAT[1])
    return config, {name.replace(".default.", "."): weight for name, weight in state.items()}


def base_of(folder: str | Path) -> str:
    """Return the name of the base model of an adapter in a form that `advreg.language.load` takes.

    Args:
        folder: a folder with an ``adapter_config.json``.

    Raises:
        ModelError: the file is damaged or names no base model, or one that is code which is not trusted.
    """
    try:
        values = parse_json(read_text(Path(folder) / CONFIG))
        base, revision = values["base_model_name_or_path"], values.get("revision")
        if not isinstance(base, str) or not base:
            raise ValueError("base_model_name_or_path is empty")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise ModelError(f"{Path(folder) / CONFIG} names no base model: {first_line(cause)}; restore it") from cause
    check_file_name(base, f"{Path(folder) / CONFIG}: base_model_name_or_path", ModelError)
    if ":" in base or Path(base).is_dir():
        return base
    return f"hf:{base}@{revision}" if revision else f"hf:{base}"


def base_record(lm: LanguageModel) -> dict[str, str | None]:
    """Return name, revision and SHA-256 of the weight files of the model that training starts from; None if it has no files."""
    stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in _weight_files(lm))
    adapter = getattr(lm.network, "peft_config", {}).get("default")
    name = adapter.base_model_name_or_path if adapter else lm.name
    return {"model": name, "revision": _revision(lm), "sha256": _files_sha256(stamps)}


def _revision(lm: LanguageModel) -> str | None:
    """Return the commit of a model from the hub."""
    return getattr(lm.network.config, "_commit_hash", None)


def _weight_files(lm: LanguageModel) -> list[Path]:
    """Return the files that the base weights were read from: in their folder, or in the cache of the hub's library."""
    place = getattr(lm.network.config, "_name_or_path", "")
    if place and (Path(place) / "config.json").is_file():
        return sorted(Path(place).glob("*.safetensors"))
    if _revision(lm) is None:
        return []
    hub = import_extra("transformers.utils.hub", EXTRA)
    found = hub.cached_file(place, "config.json", revision=_revision(lm), local_files_only=True)
    return sorted(Path(found).parent.glob("*.safetensors"))


@functools.cache
def _files_sha256(stamps: tuple[tuple[str, int, int], ...]) -> str | None:
    """Return the SHA-256 of the contents of files, one after the other; sizes and times are the key of the cache."""
    digest = hashlib.sha256()
    for name, _, _ in stamps:
        with Path(name).open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest() if stamps else None


def _check_base(lm: LanguageModel, run: RunFolder) -> None:
    """Raise unless the base model has the weights that the adapter was trained on, where both are known."""
    if not (run / BASE).is_file():
        return
    trained, given = run.read_json(BASE), base_record(lm)
    if trained.get("sha256") and given["sha256"] and trained["sha256"] != given["sha256"]:
        raise WeightsError(
            f"the adapter in {run.path} was trained on other weights of {trained.get('model')} "
            f"(sha256 {str(trained['sha256'])[:12]}, not {given['sha256'][:12]}); load those"
        )

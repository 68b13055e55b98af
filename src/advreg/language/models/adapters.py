"""Low-rank adapters: what training changes, kept apart from the model, so that it can be turned down, off, and saved alone."""

from __future__ import annotations

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
from advreg.errors import ConfigError, WeightsError
from advreg.language.models.loading import EXTRA, LanguageModel
from advreg.plugins import first_line, import_extra
from advreg.runs import RunFolder
from advreg.runs.weights import serialise

WEIGHTS, FACTS = "adapter.safetensors", "adapter.json"


def with_lora(lm: LanguageModel, rank: int = 8, alpha: float = 16, seed: int = 0) -> LanguageModel:
    """Return the model with an adapter ``W + alpha / rank B A`` on every linear layer but the last; only A and B learn.

    The network itself is changed: what was given now carries the adapter too. B is zero, so nothing else changes yet.

    Args:
        lm: a model without adapter.
        rank: rows of A.
        alpha: strength.
        seed: of A's random start; no other generator moves.

    Raises:
        ConfigError: rank below 1, or an adapter is there already.
        MissingExtraError: peft is not installed.

    Reference: Hu et al., ICLR 2022.
    """
    if rank < 1 or _layers(lm):
        there = "an adapter is there already" if _layers(lm) else "none is there"
        raise ConfigError(f"rank is {rank} and {there}; give a rank of at least 1, to a model without adapter")
    peft = import_extra("peft", EXTRA)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of one library about the other
        torch.manual_seed(seed)
        network = peft.get_peft_model(lm.network, config)
    return replace(lm, network=network)


def _layers(lm: LanguageModel) -> list[Any]:
    return [module for module in lm.network.modules() if hasattr(module, "lora_A") and hasattr(module, "scaling")]


@contextmanager
def adapter_scale(lm: LanguageModel, scale: float) -> Iterator[None]:
    """Multiply what the adapter does by a number inside the block: 0 is the base model, 1 the trained one.

    Raises:
        ConfigError: there is no adapter.
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
    """Return a block inside which the model is the base model: the reference of a KL term."""
    return adapter_scale(lm, 0.0)


def adapter_state(lm: LanguageModel) -> dict[str, torch.Tensor]:
    """Return the adapter's own weights by name; peft's own way may ask the hub for the base model's configuration."""
    return {name: weight.detach() for name, weight in lm.network.named_parameters() if "lora_" in name}


def save_adapter(lm: LanguageModel, run: str | Path | RunFolder) -> None:
    """Write ``adapter.safetensors`` and ``adapter.json`` into a run folder, each whole or not at all.

    Raises:
        ConfigError: there is no adapter.
        RunError: the folder cannot be written.
    """
    if not _layers(lm):
        raise ConfigError(f"{lm.name} has no adapter to save; make one with with_lora")
    config = lm.network.peft_config["default"]
    folder = RunFolder.at(Path(run))
    folder.write(WEIGHTS, serialise(adapter_state(lm)))
    folder.write_json(FACTS, {"kind": "lora", "model": lm.name, "rank": config.r, "alpha": config.lora_alpha})


def load_adapter(lm: LanguageModel, run: str | Path | RunFolder) -> LanguageModel:
    """Return the model with the adapter of a run folder.

    Args:
        lm: the model that it was trained on, without adapter.
        run: the folder.

    Raises:
        WeightsError: no adapter there, a damaged one, or one of another model.
    """
    folder = RunFolder.open(Path(run))
    try:
        facts = parse_json(read_text(folder / FACTS))
        rank, alpha = int(facts["rank"]), float(facts["alpha"])
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as cause:
        raise WeightsError(f"{folder.path} holds no adapter that can be read: {first_line(cause)}") from cause
    made = with_lora(lm, rank, alpha)
    own = {name: tuple(tensor.shape) for name, tensor in adapter_state(made).items()}
    if own != {name: tuple(tensor.shape) for name, tensor in state.items()}:
        raise WeightsError(f"the adapter in {folder.path} was made for {facts.get('model')}, not for {lm.name}")
    made.network.load_state_dict(state, strict=False)
    return made

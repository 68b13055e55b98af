"""Low-rank adapters (LoRA): trained weights that are scaled, switched off and saved apart from the base model."""

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
    if rank < 1 or _layers(lm):
        article = "an" if _layers(lm) else "no"
        raise ConfigError(
            f"rank is {rank} and the model has {article} adapter; give a rank >= 1 and a model without adapter"
        )
    peft = import_extra("peft", EXTRA)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of one library about the other
        torch.manual_seed(seed)
        network = peft.get_peft_model(lm.network, config)
    return replace(lm, network=network)


def _layers(lm: LanguageModel) -> list[Any]:
    """Return the layers that carry an adapter."""
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


def adapter_state(lm: LanguageModel) -> dict[str, torch.Tensor]:
    """Return the adapter's weights by name, without the requests to the hub that peft's own function may make."""
    return {name: weight.detach() for name, weight in lm.network.named_parameters() if "lora_" in name}


def save_adapter(lm: LanguageModel, run: str | Path | RunFolder) -> None:
    """Write ``adapter.safetensors`` and ``adapter.json`` into a run folder, each atomically.

    Args:
        lm: a model with an adapter.
        run: the folder.

    Raises:
        ConfigError: the model has no adapter.
        RunError: the folder is not writable.
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
        lm: the base model that the adapter was trained on, without adapter.
        run: the folder.

    Raises:
        RunError: there is no such folder.
        WeightsError: the folder has no readable adapter, or one of another model.
        ConfigError: the model has an adapter.
        MissingExtraError: peft is not installed.
    """
    folder = RunFolder.open(Path(run))
    try:
        facts = parse_json(read_text(folder / FACTS))
        rank, alpha = int(facts["rank"]), float(facts["alpha"])
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as cause:
        raise WeightsError(
            f"{folder.path} has no readable adapter: {first_line(cause)}; give the folder of a finished run"
        ) from cause
    adapted = with_lora(lm, rank, alpha)
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter_state(adapted).items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in state.items()}:
        raise WeightsError(
            f"the adapter in {folder.path} is for {facts.get('model')}, not for {lm.name}; load that model"
        )
    adapted.network.load_state_dict(state, strict=False)
    return adapted

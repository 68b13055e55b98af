"""The run folder of language training: the model that a run starts from, and the one that it holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from advreg.documents import check_links
from advreg.errors import WeightsError
from advreg.language.config import LanguageConfig
from advreg.language.models import loading
from advreg.language.models.adapters import load_adapter
from advreg.language.models.loading import LanguageModel
from advreg.plugins import first_line
from advreg.runs import RunFolder

CONFIG, WHOLE = "language.toml", "model.safetensors"


def load_base(config: LanguageConfig, device: str, dtype: str | None = None) -> LanguageModel:
    """Return the model that a run starts from, with the system prompt of the run.

    Args:
        config: configuration of the run.
        device: device of the network, or ``"auto"``.
        dtype: dtype of the weights; without it, dtype and quantization of the configuration.

    Raises:
        ModelError, MissingExtraError: the model cannot be loaded.
    """
    model = config.model
    quantization = "none" if dtype else model.quantization
    lm = loading.load(model.name, dtype=dtype or model.dtype, device=device, quantization=quantization)
    return replace(lm, system=model.system or None)


def load_trained(
    path: str | Path, *, dtype: str = "float32", device: str = "cpu", trust_code: bool = False
) -> LanguageModel:
    """Return the model that a run folder of `fit_language` holds, in eval mode.

    Args:
        path: the run folder.
        dtype: floating type of the weights; ``"float32"`` for verification.
        device: where the model runs.
        trust_code: let the run's ``language.toml`` name code (``pkg.module:factory``).

    Returns:
        The model, with its tokenizer.

    Raises:
        RunError: no such folder.
        ConfigError, ModelError: the model that it was trained from is not there.
        WeightsError: its weights are missing or damaged.
    """
    run = RunFolder.open(path)
    check_links(run.path)
    config = LanguageConfig.load(run / CONFIG, trust_code=trust_code)
    if not config.model.rank and (run / "config.json").is_file():
        return replace(loading.load(str(run.path), dtype=dtype, device=device), system=config.model.system or None)
    lm = load_base(config, device, dtype)
    if config.model.rank:
        return replace(load_adapter(lm, run), name=str(run.path))
    try:
        lm.network.load_state_dict(load_file(run / WHOLE))  # written before the folder had a config.json
    except (OSError, SafetensorError, RuntimeError) as cause:
        raise WeightsError(f"{run / WHOLE} cannot be read: {first_line(cause)}") from cause
    return replace(lm, name=str(run.path))

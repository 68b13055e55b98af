"""The run folder of language training: creation, resuming, and loading the trained model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from advreg import runtime
from advreg.documents import check_links
from advreg.errors import WeightsError
from advreg.language.config import LanguageConfig
from advreg.language.models import loading
from advreg.language.models.adapters import WEIGHTS as ADAPTER
from advreg.language.models.adapters import load_adapter, save_adapter
from advreg.language.models.loading import LanguageModel
from advreg.language.models.saving import save_pretrained
from advreg.plugins import first_line
from advreg.runs import RunFolder
from advreg.trainer.checkpoint import METRICS
from advreg.trainer.run_folder import ENVIRONMENT, create_run_folder, open_to_resume, read_run_config

CONFIG, WHOLE = "language.toml", "model.safetensors"


def read_config(config: LanguageConfig | str | Path, *, resume: bool) -> LanguageConfig:
    """Return the configuration to train with, validated; of a run folder, the ``language.toml`` in it.

    Args:
        config: a configuration, a TOML file, or a run folder to resume.
        resume: whether a run folder may be given.

    Raises:
        ConfigError: the configuration is not valid.
        RunError: a run folder was given without ``resume``.
    """
    return read_run_config(config, LanguageConfig, CONFIG, resume=resume)


def start_folder(config: LanguageConfig, *, resume: bool) -> RunFolder:
    """Return the run folder: a new one with configuration and environment, or the one to resume.

    Args:
        config: configuration of the run.
        resume: whether the run exists.

    Raises:
        RunError: a new one exists already or cannot be written; one to resume is absent or holds another run.
    """
    if resume:
        return open_to_resume(config, CONFIG)
    return create_run_folder(config, CONFIG, {ENVIRONMENT: runtime.environment()})


def save_weights(lm: LanguageModel, run: RunFolder, rank: int) -> None:
    """Write the trained weights as peft and transformers read them: the adapter, or with rank 0 the whole model.

    Args:
        lm: the model.
        run: the run folder.
        rank: rank of the adapter.
    """
    (save_adapter if rank else save_pretrained)(lm, run)


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


__all__ = [
    "ADAPTER", "CONFIG", "METRICS", "WHOLE", "load_trained", "read_config", "save_weights", "start_folder",
]  # fmt: skip

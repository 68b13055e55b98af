"""Export of a trained model: an adapter folder of peft, or a plain folder of transformers with the adapter merged in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from advreg.errors import ConfigError
from advreg.language.models.adapters import BASE, adapter_scale, has_adapter, save_adapter
from advreg.language.models.language_model import LanguageModel
from advreg.language.models.saving import save_pretrained
from advreg.language.training.folder import load_trained
from advreg.runs import RunFolder


def export_trained(
    run: str | Path,
    out: str | Path,
    *,
    merge: bool = False,
    scale: float = 1.0,
    dtype: str = "float32",
    trust_code: bool = False,
) -> Path:
    """Write a trained model for other programs, with its tokenizer and the hash of the base weights.

    Args:
        run: a run folder of `fit_language`.
        out: folder to create.
        merge: write the whole model with the adapter added to its weights; a model trained without adapter is always whole.
        scale: factor on the adapter's output, such as the scale that a sweep recommends.
        dtype: dtype of the weights of a whole model.
        trust_code: let the run's ``language.toml`` name code (``pkg.module:factory``).

    Returns:
        The folder.

    Raises:
        ConfigError: the model has no adapter to scale, or a base model that peft cannot load is not merged.
        RunError: there is no such run, or ``out`` has files or is not writable.
    """
    lm = load_trained(run, dtype=dtype, trust_code=trust_code)
    adapted = has_adapter(lm)
    _check_exportable(lm, run, merge or not adapted, scale)
    folder = RunFolder.create(out)
    (folder / ".lock").unlink()
    if not adapted:
        save_pretrained(lm, folder)
        folder.write_json(BASE, RunFolder.open(run).read_json(BASE))
    elif merge:
        with adapter_scale(lm, scale):
            save_pretrained(replace(lm, network=lm.network.merge_and_unload()), folder)
    else:
        save_adapter(lm, folder, scale)
        lm.tokenizer.save_pretrained(folder.path)
    return folder.path


def _check_exportable(lm: LanguageModel, run: str | Path, whole: bool, scale: float) -> None:
    """Raise if there is no adapter to scale, or an adapter alone would be of no use to other programs."""
    if not has_adapter(lm):
        if scale != 1:
            raise ConfigError(
                f"{run} was trained without an adapter, so there is nothing to scale; leave the scale at 1"
            )
        return
    base = lm.network.peft_config["default"].base_model_name_or_path
    if not whole and ":" in base:
        raise ConfigError(
            f"the base model of the adapter is {base}, which only advreg loads; merge the adapter into it"
        )

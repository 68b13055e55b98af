"""Fine-tuning: a configuration that makes a trained network robust in a fraction of the passes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from advreg.config import Config, ModelConfig, PolicyConfig, RecipeConfig
from advreg.documents import check_links, parse_json, read_text
from advreg.errors import ConfigError, ModelError
from advreg.models.loading import check_options
from advreg.plugins import check_file_name, trusting

_WEIGHTS = (".safetensors", ".pt", ".pth")
_PLAIN_RATIO = 0.5


def fine_tune(
    config: Config,
    start: str | Path,
    *,
    lr_scale: float = 0.1,
    epochs: int = 2,
    ramp: float = 0.5,
    ratio: float | None = None,
    freeze_batchnorm: bool = False,
    trust_code: bool = False,
) -> Config:
    """Return the configuration of a run that starts from trained weights; all changes are visible in the configuration.

    A configuration without an attack, that of a plain run, becomes adversarial: PGD with 10 steps on half of each batch.

    Args:
        config: configuration of training from scratch, with the threat model.
        start: a run folder, a weights file for the network of the configuration, or the name of a pretrained network.
        lr_scale: factor on the learning rate.
        epochs: 1 to 3 are enough.
        ramp: share of training over which eps grows from 0; 0 for the full eps at once. A policy ``warmup`` stays unchanged.
        ratio: share of each batch that is attacked, for the recipe madry; below 1 it becomes mixed. If None, that of the
            configuration, 0.5 for one without an attack.
        freeze_batchnorm: whether BatchNorm keeps its statistics, for small batches or little data.
        trust_code: let the run folder's ``model.json`` name code (``pkg.module:factory``).

    Returns:
        A validated configuration.

    Raises:
        ConfigError: no such start, values out of range, a recipe or policy that ratio or ramp cannot replace, or a plain
            configuration without a threat model.

    Example:
        >>> robust = Config().replace_with(["attack.name=pgd", "recipe.name=madry", "threat.eps=0.1", "optimizer.lr=0.1"])
        >>> tuned = fine_tune(robust, "torchvision:resnet18", ratio=0.3)
        >>> round(tuned.optimizer.lr, 4), tuned.train.epochs, tuned.policy.name, dict(tuned.recipe.options)
        (0.01, 2, 'warmup', {'ratio': 0.3})

    Reference: Jeddi, Shafiee, Wong, "A simple fine-tuning is all you need: towards robust deep learning via adversarial
    fine-tuning", 2020, arXiv:2012.13628.
    """
    config, share = _attacked(config, ratio)
    _check_options(lr_scale, ramp, share)
    with trusting(trust_code):
        model = _start(config.model, start)
    model = replace(model, split=config.model.split, predictor=config.model.predictor)
    return replace(
        config,
        model=model,
        policy=_ramped(config.policy, ramp),
        recipe=_mixed(config.recipe, share),
        optimizer=replace(config.optimizer, lr=lr_scale * config.optimizer.lr),
        train=replace(config.train, epochs=epochs, freeze_batchnorm=freeze_batchnorm),
    ).checked()


def _attacked(config: Config, ratio: float | None) -> tuple[Config, float]:
    """Return the configuration with an attack, and the share of each batch that it attacks."""
    if config.recipe.name != "standard":
        return config, 1.0 if ratio is None else ratio
    if not config.threat.eps:
        raise ConfigError(
            "threat.eps is 0 and recipe.name is 'standard', so fine-tuning would stay plain; give the threat model, "
            "such as --set threat.eps=8/255"
        )
    recipe = RecipeConfig("madry", config.recipe.options)
    attacked = replace(config, recipe=recipe, attack=replace(config.attack, name="pgd"))
    return attacked, _PLAIN_RATIO if ratio is None else ratio


def _check_options(lr_scale: float, ramp: float, ratio: float) -> None:
    if not (lr_scale > 0 and 0 <= ramp < 1 and 0 < ratio <= 1):
        raise ConfigError(
            f"lr_scale is {lr_scale}, ramp {ramp}, ratio {ratio}; allowed: above 0, from 0 to below 1, above 0 up to 1"
        )


def _start(section: ModelConfig, start: str | Path) -> ModelConfig:
    path = Path(start)
    if path.is_dir():
        return _from_run(path)
    if path.is_file() or path.suffix in _WEIGHTS:
        return replace(section, weights=str(path))
    if ":" not in str(start):
        raise ConfigError(f"cannot fine-tune from {start}: no such folder; give a run folder, a weights file or a name")
    return ModelConfig(str(start), options=section.options if str(start) == section.name else {})


def _from_run(run: Path) -> ModelConfig:
    if not os.path.lexists(run / "model.json"):
        raise ConfigError(f"cannot fine-tune from {run}: it is no run folder; give one with a model.json")
    check_links(run)
    try:
        spec = parse_json(read_text(run / "model.json"))
        check_file_name(spec["name"], f"{run / 'model.json'}: name", ModelError)
        check_options(spec["options"], f"{run / 'model.json'}: options")
        return ModelConfig(spec["name"], str(run / "model.safetensors"), options=spec["options"])
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"cannot fine-tune from {run}: it is no run folder; give one with a model.json") from error


def _ramped(section: PolicyConfig, ramp: float) -> PolicyConfig:
    if not ramp or section.name == "warmup":  # a ramp itself
        return section
    if section.name != "fixed":
        raise ConfigError(f"policy.name is {section.name!r}, which sets eps by itself; give ramp = 0")
    return PolicyConfig("warmup", {"share": ramp})


def _mixed(section: RecipeConfig, ratio: float) -> RecipeConfig:
    if ratio == 1:
        return section
    if section.name not in ("madry", "mixed"):
        raise ConfigError(
            f"recipe.name is {section.name!r}, which selects the attacked examples itself; give ratio = 1, or use madry"
        )
    return RecipeConfig("mixed", {**section.options, "ratio": ratio})

"""Combinations of values that are rejected before training, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from advreg.errors import ConfigError

if TYPE_CHECKING:
    from advreg.config.config import Config

_BOUNDS = ("ibp", "crown_ibp")  # recipes of bounds alone
CERTIFIED = (*_BOUNDS, "mtl_ibp", "sabr")
"""Recipes that train for bounds."""
UNATTACKED = ("standard", "gaussian", *_BOUNDS)
"""Recipes without an attack."""
_OWN_ATTACK = (*UNATTACKED, "free", "nuat")  # recipes without an attack, or with one in their own backward
_ROUTED = ("ar_at", "advprop")  # recipes on split BatchNorm
_NEEDS_EPS = ("free", "nuat", *_BOUNDS)
_STARTS = {"gaussian": ("pgd",), "zero": ("fgsm", "pgd")}  # other attacks fix their start

WITH_TASKS = ("standard", "gaussian", "madry", "mixed", "multiplier", "free", "trades", "alp")
"""Recipes for every task; the others weigh margins or logits of classes."""
_ONE_TARGET = ("classes", "labels", "ordinal", "number")  # targets that hold when an image is moved

Rule = Callable[["Config"], str | None]


def check_compatibility(config: Config, source: str) -> None:
    """Raise for values that are each valid but cannot be combined.

    Args:
        config: the whole configuration.
        source: origin of the values, for error messages.

    Raises:
        ConfigError: the values, the reason and the remedy.
    """
    for rule in _RULES:
        if (problem := rule(config)) is not None:
            raise ConfigError(f"{source}: {problem}")


def _eps(config: Config) -> str | None:
    recipe, attack = config.recipe.name, config.attack.name
    if config.threat.eps or (attack == "none" and recipe not in _NEEDS_EPS):
        return None
    what = f"recipe.name is {recipe!r}" if recipe in _NEEDS_EPS else f"attack.name is {attack!r}"
    return f"{what} but threat.eps is 0; give it a value, such as 8/255"


def _attack(config: Config) -> str | None:
    attack, recipe = config.attack.name, config.recipe.name
    if (attack != "none") != (recipe in _OWN_ATTACK):
        return None
    return (
        f"recipe.name is {recipe!r} and attack.name is {attack!r}; "
        "'standard', 'gaussian', 'free', 'nuat', 'ibp' and 'crown_ibp' go with attack 'none', every other recipe with 'fgsm', "
        "'n-fgsm', 'pgd' or 'stored'"
    )


def _pgi_start(config: Config) -> str | None:
    if config.recipe.name != "pgi" or config.attack.name == "stored":
        return None
    return "recipe.name is 'pgi', which needs the start of the attack; set attack.name = 'stored', or use 'madry'"


def _objective(config: Config) -> str | None:
    if config.attack.objective == "auto" or config.attack.name not in ("none", "stored"):
        return None
    return (
        f"attack.objective is {config.attack.objective!r} and attack.name is {config.attack.name!r}; leave it at 'auto'"
    )


def _norms(config: Config) -> str | None:
    attack = config.attack
    if not attack.norms:
        return "attack.union is given, but attack.norms is empty; name norms, 'l2:2'" if attack.union != "max" else None
    needs = (
        ("attack.name", attack.name, "pgd"),
        ("attack.step_size", attack.step_size, "auto"),
        ("attack.start", attack.start, "zero" if attack.union == "msd" else attack.start),
    )
    for key, given, needed in needs:
        if given != needed:
            return f"attack.norms is {attack.norms!r}, and {key} is {given!r}; set it to {needed!r}"
    return "attack.norms cannot go with policy 'friendly'" if config.policy.name == "friendly" else None


def _streaming(config: Config) -> str | None:
    data = config.data
    if data.stream and config.attack.name == "stored":
        return "attack 'stored' keeps a perturbation of every image in memory; it cannot go with data.stream"
    if data.stream or not (data.workers or data.crop == "random"):
        return None
    return "data.workers and data.crop = 'random' belong to what is read from a disk; set data.stream = true"


def _start(config: Config) -> str | None:
    start, attack = config.attack.start, config.attack.name
    homes = _STARTS.get(start, (attack,))
    if attack in homes:
        return None
    home = " or ".join(map(repr, homes))
    return f"attack.start is {start!r} and attack.name is {attack!r}; a {start!r} start belongs to {home}"


def _step_size(config: Config) -> str | None:
    size, policy = config.attack.step_size, config.policy.name
    if size == "auto" or config.attack.name != "n-fgsm" or policy == "fixed":
        return None
    return (
        f"policy.name is {policy!r}, which moves eps, but attack.step_size is {size:.6g}, which 'n-fgsm' never cuts back; "
        "set attack.step_size = 'auto'"
    )


def _nesterov(config: Config) -> str | None:
    if not config.optimizer.nesterov or (config.optimizer.name == "sgd" and config.optimizer.momentum):
        return None
    return "optimizer.nesterov needs optimizer.name = 'sgd' and a momentum above 0"


def _free(config: Config) -> str | None:
    if config.recipe.name != "free":
        return None
    others = {
        "train.accumulate": config.train.accumulate > 1,
        "train.awp": config.train.awp > 0,
        "data.cutmix": config.data.cutmix,
        f"policy.name = {config.policy.name!r}": config.policy.name not in ("fixed", "warmup"),
    }
    wrong = next((key for key, used in others.items() if used), None)
    return wrong and f"recipe.name is 'free', whose backward is its attack; it cannot go with {wrong}: leave that out"


def _standard(config: Config) -> str | None:
    policy, recipe = config.policy.name, config.recipe.name
    if recipe not in (*UNATTACKED, "nuat") or policy not in ("iaat", "friendly", "ldes"):
        return None
    return f"recipe.name is {recipe!r}, which has no attack, and policy.name is {policy!r}; set policy.name = 'fixed'"


def _awp(config: Config) -> str | None:
    if config.train.awp_start and not config.train.awp:
        return "train.awp_start is set, but train.awp is 0; give the size of the perturbation, such as 0.005"
    if not config.train.awp or config.train.accumulate == 1:
        return None
    return "train.awp perturbs weights against a whole batch; it cannot go with train.accumulate above 1"


def _mixed_labels(config: Config) -> str | None:
    if not config.data.cutmix or config.recipe.name != "mart":
        return None
    return (
        "recipe.name is 'mart', which weights misclassified examples; data.cutmix mixes labels: use 'trades' or 'madry'"
    )


def _double_backward(config: Config) -> str | None:
    if not config.train.compile or config.recipe.options.get("method") != "double":
        return None
    return "train.compile cannot go with recipe.options.method = 'double': torch differentiates a compiled model once"


def _bounds(config: Config) -> str | None:
    if config.recipe.name not in CERTIFIED:
        return None
    if config.data.cutmix:
        return f"recipe.name is {config.recipe.name!r}, which bounds margins of one label; data.cutmix mixes labels"
    if config.train.compile:
        return f"recipe.name is {config.recipe.name!r}, which reads BatchNorm's statistics; set train.compile = false"
    return None


def _split(config: Config) -> str | None:
    recipe, split = config.recipe.name, config.model.split
    predictor = config.model.predictor
    if split == "none":
        return "model.predictor is given, but model.split is 'none'; set it to 'adv'" if predictor else None
    if recipe not in _ROUTED:
        return (
            f"model.split is {split!r}, and recipe.name is {recipe!r}, which uses one route; use 'ar_at' or 'advprop'"
        )
    needed = recipe == "ar_at" and config.recipe.options.get("invariance") != 0
    if bool(predictor) == needed:
        return None
    remedy = "give the number of BatchNorms, such as 4" if needed else "leave it out"
    return f"recipe.name is {recipe!r} and model.predictor is {predictor}; {remedy}"


def _average(config: Config) -> str | None:
    if config.average.name != "none" or not (config.average.reestimate not in ("auto", 0) or config.average.options):
        return None
    return "average.name is 'none', but there are options for it; set it to 'ema' or 'swa'"


def _reestimate(config: Config) -> str | None:
    if config.average.reestimate in ("auto", 0):
        return None
    if config.recipe.name == "free":
        return "recipe.name is 'free', without attacked inputs to measure statistics on; set average.reestimate = 0"
    if config.train.freeze_batchnorm:
        return "train.freeze_batchnorm keeps the statistics that would be measured again; set average.reestimate = 0"
    return None


def _iaat_tests(config: Config) -> str | None:
    testing = config.policy.name == "iaat" and config.policy.options.get("method") != "margin"
    if not testing or config.attack.name != "stored":
        return None
    return (
        "policy.name is 'iaat', whose tests would overwrite the perturbations of attack 'stored'; "
        "set policy.options.method = 'margin'"
    )


def _friendly(config: Config) -> str | None:
    if config.policy.name != "friendly":
        return None
    needs = (
        ("attack.name", config.attack.name, ("pgd",)),
        ("attack.objective", config.attack.objective, ("auto",)),
        ("train.guard", config.train.guard, ("warn", "off")),
    )
    for key, given, allowed in needs:
        if given not in allowed:
            remedy = f"set it to {' or '.join(map(repr, allowed))}"
            return f"policy.name is 'friendly', whose PGD takes the attack's place, and {key} is {given!r}; {remedy}"
    return None


def _ratio(config: Config) -> str | None:
    wrong = {
        "recipe.name = 'free'": config.recipe.name == "free",
        f"attack.name = {config.attack.name!r}": config.attack.name in ("n-fgsm", "stored"),
        "[features]": bool(config.features),
        "threat.scale": bool(config.threat.scale),
    }
    broken = next((key for key, used in wrong.items() if used), None)
    if config.threat.norm != "snr" or broken is None:
        return None
    return f"threat.norm is 'snr', a ratio to each signal, which cannot go with {broken}; change that, or use 'l2'"


def _features(config: Config) -> str | None:
    if not config.features:
        return None
    wrong = {
        "recipe.name = 'free'": config.recipe.name == "free",
        f"attack.name = {config.attack.name!r}": config.attack.name in ("n-fgsm", "stored"),
        f"data.augment = {config.data.augment!r}": config.data.augment != "none",
        "data.cutmix = true": config.data.cutmix,
        "threat.scale": bool(config.threat.scale),
        "data.stream = true": config.data.stream,
        "scale= in data.name": "scale=" in config.data.name,  # features have units of their own
    }
    broken = next((key for key, used in wrong.items() if used), None)
    return broken and f"[features] has units and rules of columns, which cannot go with {broken}; change that"


def _task(config: Config) -> str | None:
    task, recipe = config.task.name, config.recipe.name
    policy = config.policy.name
    if "task" in config.recipe.options:
        return "recipe.options.task is set; name the task in a section of its own: [task] name = ..."
    if task == "classes":
        return None
    for given, is_used, remedy in (
        (f"recipe.name is {recipe!r}", recipe not in WITH_TASKS, f"use {', '.join(WITH_TASKS)}"),
        (f"policy.name is {policy!r}", policy not in ("fixed", "warmup"), "use 'fixed' or 'warmup'"),
        (f"attack.objective is {config.attack.objective!r}", config.attack.objective != "auto", "leave it at 'auto'"),
        ("data.cutmix is true", config.data.cutmix, "set it to false"),
        ("data.stream is true", config.data.stream, "set it to false"),
    ):
        if is_used:
            return f"{given}, which is for classes, and task.name is {task!r}; {remedy}"
    if config.data.augment == "none" or task in _ONE_TARGET:
        return None
    return f"data.augment is {config.data.augment!r}, which moves images, not the targets of task {task!r}; set it to 'none'"


_RULES: tuple[Rule, ...] = (
    _eps, _attack, _pgi_start, _objective, _norms, _streaming, _start, _step_size, _nesterov, _free, _standard, _awp,
    _mixed_labels, _double_backward, _bounds, _split, _average, _reestimate, _iaat_tests, _friendly, _ratio, _features,
    _task,
)  # fmt: skip

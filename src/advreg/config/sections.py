"""The sections of a configuration: every key, its type, its limits and its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _ratio(value: object) -> object:
    """Read ``"8/255"`` as a number; anything else is left to the validation of floats."""
    try:
        return float(Fraction(value)) if isinstance(value, str) else value
    except (ValueError, ZeroDivisionError):
        return value


Count = Annotated[int, Field(ge=1)]
Radius = Annotated[float, BeforeValidator(_ratio), Field(ge=0)]
StepSize = Annotated[float, BeforeValidator(_ratio), Field(gt=0)]
Box = Annotated[list[float], Field(min_length=2, max_length=2)]
Option = bool | int | float | str | list[int] | list[float]
Options = Mapping[str, Option]


@dataclass(frozen=True)
class ModelConfig:
    """Which network: ``options`` go to its constructor, ``weights`` is a file to start from ("" = fresh)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "zoo:mnist-cnn"
    weights: str = ""
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig:
    """Which data: ``validation`` is how many TRAINING images are held out to choose the best epoch.

    ``stream`` reads a folder batch by batch with that many ``workers`` reading ahead, and cuts images to their size with a
    ``crop`` from the centre or a random one. ``cutmix`` pastes a window of one image into another and mixes their labels.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "mnist"
    validation: Annotated[int, Field(ge=0)] = 1000
    augment: str = "none"
    cutmix: bool = False
    stream: bool = False
    workers: Annotated[int, Field(ge=0)] = 0
    crop: Literal["center", "random"] = "center"


@dataclass(frozen=True)
class ThreatConfig:
    """The threat model: ``eps`` in the units of the ``box``, a number or a text such as "8/255".

    ``box`` is the lowest and the highest valid value of an input, [0, 1] for pixels.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    norm: str = "linf"
    eps: Radius = 0.0
    box: Box = field(default_factory=lambda: [0.0, 1.0])


@dataclass(frozen=True)
class AttackConfig:
    """The attack in training.

    ``step_size = "auto"`` is 2.5 eps / steps; for one step 1.25 eps from a uniform start, eps from zero.
    ``start = "gaussian"`` is that of TRADES, beside the clean point. ``objective = "auto"`` is that of the recipe.
    ``noise``, in eps, belongs to n-fgsm, whose single step is eps long and starts there. ``momentum`` and ``reset``, in
    epochs, belong to stored, whose single step starts from the perturbation of the last epoch.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["none", "fgsm", "n-fgsm", "pgd", "stored"] = "none"
    steps: Count = 10
    step_size: Literal["auto"] | StepSize = "auto"
    start: Literal["uniform", "zero", "gaussian"] = "uniform"
    objective: Literal["auto", "cross-entropy", "margin", "dlr"] = "auto"
    noise: Annotated[float, Field(ge=0)] = 2.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.3
    reset: Count = 40


@dataclass(frozen=True)
class PolicyConfig:
    """The eps of each example at each step; ``options`` are the policy's own. Validation is at ``threat.eps``."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "fixed"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class RecipeConfig:
    """The loss; ``options`` are the recipe's own, such as ``label_smoothing``."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "standard"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer; ``momentum`` and ``nesterov`` belong to sgd."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    nesterov: bool = False


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate schedule; ``options`` are the schedule's own."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "constant"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class AverageConfig:
    """The average of the weights that is validated and saved in place of the last weights; ``options`` are its own.

    ``reestimate`` is the number of batches of attacked inputs for recomputing its BatchNorm statistics after each epoch; 0
    copies those of the network in training.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["none", "ema", "swa"] = "none"
    reestimate: Annotated[int, Field(ge=0)] = 0
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class TrainConfig:
    """Duration, batch size, precision, device and output.

    ``batch_size`` is of a whole step: ``accumulate`` parts one after the other, over all processes.
    ``gradient_clip`` is the largest l2 norm (0 = any); ``awp`` the size of the adversarial weight perturbation (0 = none).
    ``guard`` is the action on catastrophic overfitting and divergence, which are checked every ``guard_every`` steps.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    epochs: Count = 10
    batch_size: Count = 128
    accumulate: Count = 1
    gradient_clip: Annotated[float, Field(ge=0)] = 0.0
    awp: Annotated[float, Field(ge=0)] = 0.0
    freeze_batchnorm: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    validation_steps: Count = 20
    guard: Literal["off", "warn", "repair"] = "warn"
    guard_every: Count = 200
    device: str = "auto"
    out: Annotated[str, Field(min_length=1)] = "runs/train"

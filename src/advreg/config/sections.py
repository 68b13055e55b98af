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
Option = bool | int | float | str | list[int] | list[float]
Options = Mapping[str, Option]


@dataclass(frozen=True)
class ModelSection:
    """Which network: ``options`` go to its constructor, ``weights`` is a file to start from ("" = fresh)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "zoo:mnist-cnn"
    weights: str = ""
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class DataSection:
    """Which data: ``validation`` is how many TRAINING images are held out to choose the best epoch."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "mnist"
    validation: Annotated[int, Field(ge=0)] = 1000
    augment: str = "none"


@dataclass(frozen=True)
class ThreatSection:
    """What the adversary may do: ``eps`` in pixel units of [0, 1], a number or a text such as "8/255"."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    norm: str = "linf"
    eps: Radius = 0.0


@dataclass(frozen=True)
class AttackSection:
    """How training looks for the worst case.

    ``step_size = "auto"`` is 2.5 eps / steps; for one step 1.25 eps from a uniform start, eps from zero.
    ``noise``, in eps, belongs to n-fgsm, whose single step is eps long and starts there.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["none", "fgsm", "n-fgsm", "pgd"] = "none"
    steps: Count = 10
    step_size: Literal["auto"] | StepSize = "auto"
    start: Literal["uniform", "zero"] = "uniform"
    noise: Annotated[float, Field(ge=0)] = 2.0


@dataclass(frozen=True)
class RecipeSection:
    """Which loss; ``options`` are the recipe's own, such as ``label_smoothing``."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "standard"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerSection:
    """How weights move; ``momentum`` and ``nesterov`` belong to sgd."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    nesterov: bool = False


@dataclass(frozen=True)
class ScheduleSection:
    """How the learning rate changes from the first step to the last; ``options`` are the schedule's own."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "constant"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class TrainSection:
    """How long, how large, how precise, where to; ``gradient_clip`` is the largest l2 norm (0 = any)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    epochs: Count = 10
    batch_size: Count = 128
    gradient_clip: Annotated[float, Field(ge=0)] = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    validation_steps: Count = 20
    device: str = "auto"
    out: Annotated[str, Field(min_length=1)] = "runs/train"

"""The sections of a configuration: every key, its type, its limits and its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

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
    """The network.

    Attributes:
        name: ``zoo:NAME``, ``timm:NAME``, ``torchvision:NAME`` or ``pkg.module:factory``.
        weights: file to start from; empty for new weights.
        options: options of the constructor.
        init: distribution of new weights: ``"default"``, or ``"interval"`` for certified training.
        split: ``"adv"`` or ``"clean"`` gives clean and attacked inputs a BatchNorm each, for ``ar_at`` and ``advprop``; the
            network is validated and saved with the BatchNorms of this route.
        predictor: names of the BatchNorms with a predictor head for ``ar_at``, or how many of the last ones have one.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "zoo:mnist-cnn"
    weights: str = ""
    init: Literal["default", "interval"] = "default"
    split: Literal["none", "adv", "clean"] = "none"
    predictor: Annotated[int, Field(ge=0)] | list[str] = 0
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig:
    """The data set.

    Attributes:
        name: ``mnist``, ``cifar10``, ``folder:PATH``, ...; see `advreg.load_data`.
        validation: number of training images that are held out to choose the best epoch.
        augment: ``none``, ``crop``, ``flip`` or ``crop-flip``.
        balanced: whether each class is drawn equally often in an epoch, with replacement.
        cutmix: whether to paste a window of one image into another and mix their labels.
        stream: whether a folder is read batch by batch.
        workers: number of processes that read a streamed folder ahead.
        crop: where streamed images are cut to their size, ``"center"`` or ``"random"``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "mnist"
    validation: Annotated[int, Field(ge=0)] = 1000
    augment: str = "none"
    balanced: bool = False
    cutmix: bool = False
    stream: bool = False
    workers: Annotated[int, Field(ge=0)] = 0
    crop: Literal["center", "random"] = "center"


@dataclass(frozen=True)
class TaskConfig:
    """What an output of the network is worth.

    Attributes:
        name: a key of `advreg.tasks.TASKS`, or ``pkg.module:factory``.
        options: options of the task, such as ``tolerance``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "classes"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class ThreatConfig:
    """The threat model.

    Attributes:
        norm: ``linf``, ``l2`` or ``l1``, or ``snr`` for l2 at a signal-to-noise ratio.
        eps: radius in the units of the box, a number or a text such as ``"8/255"``; with ``snr`` the ratio in dB.
        box: lowest and highest valid value of an input, [0, 1] for pixels.
        scale: unit of each value, nested lists that broadcast to one input: 0 may not move; left out where all are 1.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    norm: str = "linf"
    eps: Radius = 0.0
    box: Box = field(default_factory=lambda: [0.0, 1.0])
    scale: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class AttackConfig:
    """The attack in training.

    Attributes:
        name: ``none``, ``fgsm``, ``n-fgsm``, ``pgd``, or ``stored`` (FGSM-PGI).
        steps: gradient steps of ``pgd``.
        step_size: ``"auto"`` is 2.5 eps / steps; for one step 1.25 eps from a uniform start, eps from zero.
        start: ``"uniform"``, ``"zero"``, or ``"gaussian"``, that of TRADES beside the clean point.
        objective: ``"auto"`` is that of the recipe.
        norms: further threat models for ``pgd``, such as ``"l2:2 l1:10"``, with which training attacks the union.
        union: ``"max"``, the worst of all norms for each example; ``"msd"``, the best step of all norms; ``"e-at"``, one norm a
            batch.
        noise: radius of the start of ``n-fgsm``, in eps; its single step is eps long.
        momentum: decay of the direction of ``stored``, which starts from the perturbation of the last epoch.
        reset: epochs after which ``stored`` starts anew.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["none", "fgsm", "n-fgsm", "pgd", "stored"] = "none"
    steps: Count = 10
    step_size: Literal["auto"] | StepSize = "auto"
    start: Literal["uniform", "zero", "gaussian"] = "uniform"
    objective: Literal["auto", "cross-entropy", "margin", "dlr"] = "auto"
    norms: str = ""
    union: Literal["max", "msd", "e-at"] = "max"
    noise: Annotated[float, Field(ge=0)] = 2.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.3
    reset: Count = 40


@dataclass(frozen=True)
class PolicyConfig:
    """The eps of each example at each step; validation is at ``threat.eps``.

    Attributes:
        name: a key of `advreg.training.policies.POLICIES`.
        options: options of the policy.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "fixed"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class RecipeConfig:
    """The loss.

    Attributes:
        name: a key of `advreg.training.recipes.RECIPES`.
        options: options of the recipe, such as ``label_smoothing``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "standard"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer.

    Attributes:
        name: ``sgd``, ``adam`` or ``adamw``.
        lr: learning rate.
        momentum: momentum of ``sgd``.
        weight_decay: weight decay.
        decay: ``"all"`` weights decay, or ``"matrices"``: none of a bias or a norm does.
        layer_decay: factor on the learning rate from each block of the network to the one before it; 1 for equal rates.
        nesterov: whether the momentum of ``sgd`` is Nesterov's.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    decay: Literal["all", "matrices"] = "all"
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    nesterov: bool = False


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate schedule.

    Attributes:
        name: a key of `advreg.training.schedules.SCHEDULES`.
        options: options of the schedule.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "constant"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class AverageConfig:
    """The average of the weights that is validated and saved in place of the last weights.

    Attributes:
        name: ``none``, ``ema`` or ``swa``.
        reestimate: number of batches of attacked inputs for recomputing its BatchNorm statistics after each epoch; 0 copies
            those of the network in training, which belong to other weights. ``"auto"`` is 20 where there is a BatchNorm.
        options: options of the average.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["none", "ema", "swa"] = "none"
    reestimate: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class TrainConfig:
    """Duration, batch size, precision, device and output.

    Attributes:
        epochs: passes over the training set.
        batch_size: examples of a whole step, over all parts and processes.
        drop_last: whether an epoch leaves out a smaller last batch; a compiled network is compiled for each size.
        accumulate: parts of a step, one after the other.
        gradient_clip: largest l2 norm of the gradient; 0 for any.
        awp: size of the adversarial weight perturbation; 0 for none.
        awp_start: share of training before which no weight is perturbed.
        freeze_batchnorm: whether BatchNorm keeps its statistics.
        precision: ``"float32"`` or ``"bfloat16"``.
        channels_last: whether images have their channels innermost in memory.
        compile: whether the network is compiled.
        validation_steps: PGD steps of the validation.
        guard: action on catastrophic overfitting and divergence: ``"off"``, ``"warn"`` or ``"repair"``.
        guard_every: steps between two checks of the guard.
        device: ``"auto"``, ``"cpu"``, ``"cuda:0"``, ...
        out: run folder.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    epochs: Count = 10
    batch_size: Count = 128
    drop_last: bool = False
    accumulate: Count = 1
    gradient_clip: Annotated[float, Field(ge=0)] = 0.0
    awp: Annotated[float, Field(ge=0)] = 0.0
    awp_start: Annotated[float, Field(ge=0, lt=1)] = 0.0
    freeze_batchnorm: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    validation_steps: Count = 20
    guard: Literal["off", "warn", "repair"] = "warn"
    guard_every: Count = 200
    device: str = "auto"
    out: Annotated[str, Field(min_length=1)] = "runs/train"

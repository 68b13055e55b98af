"""The configuration of a training run for language: frozen dataclasses <-> TOML, every key with its limits and its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from advreg.config.base import BaseConfig
from advreg.config.sections import STRICT, Count, Radius, StepSize
from advreg.errors import ConfigError

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Whole = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class LanguageModelConfig:
    """Which model, and what of it learns: an adapter of this ``rank`` and ``alpha``, or with rank 0 all of it."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "hf-gguf:smollm2"
    dtype: Literal["float32", "bfloat16"] = "float32"
    rank: Whole = 8
    alpha: Rate = 16.0


@dataclass(frozen=True)
class LanguageDataConfig:
    """Which files: ``adversarial`` pairs of request, harmful openers and refusals; ``benign`` instructions with answers.

    ``tokens`` is the longest conversation, template included: a longer one is left out. ``held_out`` benign examples are
    kept from training, for the guard.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    adversarial: str = ""
    benign: str = ""
    tokens: Count = 96
    held_out: Count = 16


@dataclass(frozen=True)
class LanguageAttackConfig:
    """Where the worst case is looked for: ``eps`` relative to the mean norm of what is perturbed.

    continuous moves the user's words, latent the residual stream after these ``layers``, blocks counted from 0 (none = a
    quarter, a half and three quarters of the way up); both bound every token in l2. freelb, smart and alum move the user's
    words in benign examples, by their own norms. ``step_size = "auto"`` is 2.5 eps / steps; freelb's is eps / steps, smart's
    and alum's eps.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    eps: Radius = 0.05
    steps: Whole = 10
    step_size: Literal["auto"] | StepSize = "auto"
    layers: list[Whole] = field(default_factory=list)


@dataclass(frozen=True)
class LanguageRecipeConfig:
    """Which loss, and the weight of each of its terms.

    ``plain`` is trained on requests as they are; ``continuous`` and ``latent`` under attack; ``freelb``, ``smart`` and ``alum``
    are plain with their own loss on benign examples. ``toward`` pulls to refusals, ``away`` pushes from harmful openers,
    ``utility`` is the loss of benign answers, ``kl`` their divergence from the model before training, ``smooth`` the term of
    smart and alum, and ``teacher`` smart's divergence from the average of its own weights.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["plain", "continuous", "latent", "freelb", "smart", "alum"] = "continuous"
    toward: Weight = 0.5
    away: Weight = 0.5
    utility: Weight = 1.0
    kl: Weight = 0.0
    smooth: Weight = 1.0
    teacher: Weight = 0.0
    toward_cutoff: Weight = 0.5
    away_cutoff: Weight = 5.0


@dataclass(frozen=True)
class LanguageTrainConfig:
    """How long, how large, how fast, where to.

    ``mix`` is the share of all examples that are adversarial; 0 is plain fine-tuning on benign data. An epoch sees every
    benign example once; ``steps`` ends training earlier (0 = after the epochs). ``ema`` is the decay of an average of the
    weights that is kept in their place (0 = none). Every ``every`` steps a run is written down and looked at by the ``guard``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    mix: Share = 0.15
    epochs: Count = 1
    steps: Whole = 0
    batch_size: Count = 8
    lr: Rate = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: Weight = 0.0
    gradient_clip: Weight = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    guard: Literal["off", "warn", "stop"] = "warn"
    every: Count = 20
    device: str = "cpu"
    out: Annotated[str, Field(min_length=1)] = "runs/language"


@dataclass(frozen=True)
class LanguageConfig(BaseConfig):
    """A run of language training, completely: equal configurations on equal machines give equal bytes.

    Example:
        >>> config = LanguageConfig().replace_with(["train.mix=0.3", "recipe.name=latent"])
        >>> config.train.mix, config.recipe.name
        (0.3, 'latent')
    """

    seed: int = 0
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    data: LanguageDataConfig = field(default_factory=LanguageDataConfig)
    attack: LanguageAttackConfig = field(default_factory=LanguageAttackConfig)
    recipe: LanguageRecipeConfig = field(default_factory=LanguageRecipeConfig)
    train: LanguageTrainConfig = field(default_factory=LanguageTrainConfig)

    def check_combinations(self, source: str) -> None:
        """Raise `ConfigError` for values that are each valid but cannot go together."""
        if (problem := _problem(self)) is not None:
            raise ConfigError(f"{source}: {problem}")


def _problem(config: LanguageConfig) -> str | None:
    """Say which values are each allowed but cannot go together."""
    train, recipe = config.train, config.recipe
    if recipe.teacher and not (train.ema and recipe.name == "smart"):
        return "recipe.teacher is smart's, an average of its weights; set recipe.name = 'smart' and train.ema, or leave it at 0"
    if recipe.name in ("freelb", "smart", "alum") and (train.mix == 1 or not config.attack.steps):
        return f"recipe.name is {recipe.name!r}, which attacks benign examples; set train.mix below 1 and attack.steps above 0"
    if config.model.dtype == "bfloat16" and not config.model.rank:
        return "model.dtype is 'bfloat16', in which small steps of all weights are rounded away; use float32 or a model.rank"
    if recipe.kl and not config.model.rank:
        return "recipe.kl needs the model before training, which is the one without its adapter; set model.rank above 0"
    return None

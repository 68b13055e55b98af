"""The configuration of language training: frozen dataclasses <-> TOML, every key with its limits and its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

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
    """The model and its trained weights.

    Attributes:
        name: name of the model, see `advreg.language.load`.
        dtype: ``"float32"`` or ``"bfloat16"``.
        rank: rank of the LoRA adapter; 0 trains all weights.
        alpha: scale of the adapter.
        system: system prompt of every conversation; the chat template's default if empty.
        quantization: ``"nf4"`` keeps the base weights in 4 bits, which needs bitsandbytes and an adapter; ``"none"`` does not.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str = "hf-gguf:smollm2"
    dtype: Literal["float32", "bfloat16"] = "float32"
    rank: Whole = 8
    alpha: Rate = 16.0
    system: str = ""
    quantization: Literal["none", "nf4"] = "none"


@dataclass(frozen=True)
class LanguageDataConfig:
    """The training data.

    Attributes:
        adversarial: file of harmful requests with targets and refusals.
        benign: file of harmless prompts with reference answers.
        tokens: length limit of a conversation with its template; longer ones are omitted.
        held_out: number of benign examples reserved for the guard.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    adversarial: str = ""
    benign: str = ""
    tokens: Count = 96
    held_out: Count = 16


@dataclass(frozen=True)
class LanguageAttackConfig:
    """The inner attack of training.

    The recipe continuous perturbs the embeddings of the user's tokens, latent the residual stream; both bound each token in
    l2. freelb, smart and alum perturb the user's tokens of benign examples, each in a norm of its own.

    Attributes:
        eps: radius, as a fraction of the mean norm of the perturbed vectors.
        steps: gradient steps.
        step_size: length of a step, in units of the mean norm; ``"auto"`` is 2.5 eps / steps, eps / steps for freelb, and eps
            for smart and alum.
        layers: numbers of the blocks for latent and circuit_breakers, counted from 0; if empty, a quarter, a half and three
            quarters of the depth, and 10/32 and 20/32 of it.
        step_rule: direction of a step of continuous and latent: the ``"normalised"`` gradient of each token, or its
            ``"sign"`` as in the authors' code; both have the length ``step_size`` in l2.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    eps: Radius = 0.05
    steps: Whole = 10
    step_size: Literal["auto"] | StepSize = "auto"
    layers: list[Whole] = field(default_factory=list)
    step_rule: Literal["normalised", "sign"] = "normalised"

    @property
    def options(self) -> dict[str, Any]:
        """The options of `embedding_pgd` and `latent_pgd`."""
        step_size = None if self.step_size == "auto" else self.step_size
        return {"eps": self.eps, "steps": self.steps, "step_size": step_size, "step_rule": self.step_rule}


@dataclass(frozen=True)
class LanguageRecipeConfig:
    """The loss of training and the weights of its terms, each a mean over the examples that have it.

    Attributes:
        name: ``"plain"`` trains on unperturbed requests, ``"continuous"`` and ``"latent"`` on attacked ones; ``"freelb"``,
            ``"smart"`` and ``"alum"`` are plain with their own loss on benign examples; ``"refusal_sft"`` trains on refusals
            only, ``"circuit_breakers"`` on hidden states.
        toward: weight of the NLL of refusals.
        away: weight of the term that lowers the likelihood of harmful targets.
        utility: weight of the NLL of benign answers.
        kl: weight of the KL divergence from the model before training, on benign examples.
        smooth: weight of the term of smart and alum.
        teacher: weight of smart's divergence from the average of its weights.
        toward_cutoff: NLL of a refusal below which its loss counts a thousandth.
        away_cutoff: NLL of a harmful target above which its gradient counts a thousandth; of a token of it for latent, which
            then counts zero.
        cutoff_over: NLL that is compared with the cutoffs: the mean of each ``"example"``, or of the tokens of the ``"batch"``.
        reroute: weight of circuit_breakers: it moves from harmful requests to benign examples by half during training.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["plain", "continuous", "latent", "freelb", "smart", "alum", "refusal_sft", "circuit_breakers"] = (
        "continuous"
    )
    toward: Weight = 0.5
    away: Weight = 0.5
    utility: Weight = 1.0
    kl: Weight = 0.0
    smooth: Weight = 1.0
    teacher: Weight = 0.0
    toward_cutoff: Weight = 0.5
    away_cutoff: Weight = 5.0
    cutoff_over: Literal["example", "batch"] = "example"
    reroute: Weight = 10.0


@dataclass(frozen=True)
class LanguageTrainConfig:
    """The schedule, the optimizer and the output of training.

    Attributes:
        mix: fraction of adversarial examples; 0 is fine-tuning on benign data.
        epochs: passes over the benign examples.
        steps: number of training steps; that of the epochs if 0.
        batch_size: examples in one batch.
        lr: learning rate.
        schedule: ``"constant"`` or ``"cosine"``.
        weight_decay: weight decay of AdamW.
        gradient_clip: largest gradient norm; no clipping if 0.
        ema: decay of the moving average that replaces the trained weights; no average if 0.
        guard: reaction to collapse: ``"off"``, ``"warn"`` or ``"stop"``.
        every: steps between two checkpoints, and between two checks of the guard.
        device: device of the network; ``"auto"`` spreads the layers of one process over all GPUs, which needs accelerate.
        out: run folder.
        micro_batch: examples of one forward; gradients accumulate over the batch. The whole batch at once if 0.
        checkpointing: whether activations are recomputed in the backward pass instead of kept.
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
    micro_batch: Whole = 0
    checkpointing: bool = False


@dataclass(frozen=True)
class LanguageConfig(BaseConfig):
    """The configuration of a training run, which determines its files to the byte on one machine.

    Attributes:
        seed: seed of the run.
        model: model and trained weights.
        data: training data.
        attack: inner attack.
        recipe: loss.
        train: schedule, optimizer and output.

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
        """Raise unless the values are compatible.

        Args:
            source: file or origin of the values, for the message.

        Raises:
            ConfigError: two values are valid but not together.
        """
        if (problem := _problem(self)) is not None:
            raise ConfigError(f"{source}: {problem}")


def _problem(config: LanguageConfig) -> str | None:
    """Return a message about values that are valid but not together, or None."""
    train, recipe = config.train, config.recipe
    if recipe.teacher and not (train.ema and recipe.name == "smart"):
        return (
            "recipe.teacher needs smart and train.ema; set recipe.name = 'smart' and train.ema, or recipe.teacher = 0"
        )
    if recipe.name in ("freelb", "smart", "alum") and (train.mix == 1 or not config.attack.steps):
        return f"recipe.name is {recipe.name!r}, which attacks benign examples; set train.mix below 1 and attack.steps above 0"
    if config.model.dtype == "bfloat16" and not config.model.rank:
        return "model.dtype is 'bfloat16', in which small steps of all weights are rounded away; use float32 or a model.rank"
    if config.model.quantization != "none" and not config.model.rank:
        return "model.quantization keeps the base weights fixed, so an adapter must be trained; set model.rank above 0"
    if (recipe.kl or recipe.name == "circuit_breakers") and not config.model.rank:
        needs = "need the model before training, which is the one without its adapter; set model.rank above 0"
        return f"recipe.kl and circuit_breakers {needs}"
    return None

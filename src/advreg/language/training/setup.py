"""The objects of a language training run, built from its configuration before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import AdamW

from advreg import runtime
from advreg.errors import ConfigError, DataError
from advreg.language.config import LanguageConfig, LanguageDataConfig
from advreg.language.datasets import (
    InstructionExample,
    Item,
    RefusalExample,
    choose,
    read_examples,
    read_refusal_examples,
)
from advreg.language.models.adapters import with_lora
from advreg.language.models.chat import encode
from advreg.language.models.loading import LanguageModel
from advreg.language.training.batches import BatchMix, TrainingTexts
from advreg.language.training.folder import load_base
from advreg.trainer.averaging import AveragedWeights, ema
from advreg.trainer.optimization import trainable_parameters

_TOKENIZED_AT_ONCE = 64  # conversations tokenised at a time


@dataclass(frozen=True)
class LanguageTrainState:
    """The objects of a run; training changes the state of network, optimizer and average.

    Attributes:
        config: configuration of the run.
        lm: the model, with its adapter where there is one.
        texts: training texts.
        mix: share of adversarial examples in the batches.
        steps: optimizer steps of the whole run.
        optimizer: AdamW over the weights that learn.
        average: average of these weights, None where there is none.
    """

    config: LanguageConfig
    lm: LanguageModel
    texts: TrainingTexts
    mix: BatchMix
    steps: int
    optimizer: AdamW
    average: AveragedWeights | None

    @property
    def trainable_weights(self) -> dict[str, Tensor]:
        """The weights that learn, by name."""
        named = self.lm.network.named_parameters()
        return {name: weight.detach() for name, weight in named if weight.requires_grad}

    def averaged(self, updates: int = 1) -> AbstractContextManager[None]:
        """Return a context in which the network has the averaged weights; its own where there is no average.

        Args:
            updates: number of updates of the average; with 0, the network keeps its own weights.
        """
        if self.average is None or not updates:
            return nullcontext()
        return self.average.in_place(trainable_parameters(self.lm.network))


def prepare(config: LanguageConfig) -> LanguageTrainState:
    """Load and check the objects of a run; the initial weights of an adapter depend on the seed alone.

    Args:
        config: configuration of the run.

    Raises:
        ConfigError, DataError, ModelError: the configuration cannot be used.
    """
    train = config.train
    refusals, benign = _read_files(config)
    device = train.device if train.device == "auto" else str(runtime.choose_device(train.device))
    runtime.seed_everything(config.seed)
    lm = load_base(config, device)
    texts = _select_texts(lm, config.data, refusals, benign)
    _check_not_empty(texts, config)
    if config.model.rank:
        lm = with_lora(lm, config.model.rank, config.model.alpha, config.seed)
    else:
        lm.network.requires_grad_(True)
    if train.checkpointing:
        keep_few_activations(lm)
    mix = BatchMix(train.batch_size, train.mix)
    steps = train.epochs * mix.steps(len(texts.benign), len(texts.refusals))
    weights = trainable_parameters(lm.network)
    return LanguageTrainState(
        config=config,
        lm=lm,
        texts=texts,
        mix=mix,
        steps=min(steps, train.steps) if train.steps else steps,
        optimizer=AdamW(weights, lr=train.lr, weight_decay=train.weight_decay),
        average=ema(weights, train.ema, warmup=False) if train.ema else None,
    )


def keep_few_activations(lm: LanguageModel) -> None:
    """Let the backward pass recompute the activations inside blocks, in train mode only.

    Args:
        lm: the model.
    """
    network: Any = lm.network
    name = "activation_checkpointing_enable"  # its name from transformers 5.20 on
    enable = getattr(network, name if hasattr(network, name) else "gradient_checkpointing_enable")
    enable({"use_reentrant": False})


def _read_files(config: LanguageConfig) -> tuple[list[RefusalExample], list[InstructionExample]]:
    """Read the examples that the mix needs; the guard needs benign ones as well."""
    data, train = config.data, config.train
    wanted = {"adversarial": train.mix > 0, "benign": train.mix < 1 or train.guard != "off"}
    for name, needed in wanted.items():
        if needed and not getattr(data, name):
            raise ConfigError(f"data.{name} is empty and train.mix is {train.mix}; name the file of its examples")
    refusals = read_refusal_examples(data.adversarial) if wanted["adversarial"] else []
    _check_weights(config, refusals)
    return refusals, read_examples(data.benign) if wanted["benign"] else []


def _check_weights(config: LanguageConfig, refusals: list[RefusalExample]) -> None:
    """Reject weights where one mean over all tokens of a batch takes the place of the losses of its examples."""
    if config.recipe.cutoff_over == "batch" and any(example.weight != 1 for example in refusals):
        raise ConfigError(
            f"{config.data.adversarial} has weights, which recipe.cutoff_over = 'batch' cannot apply; set it to 'example'"
        )


def _select_texts(
    lm: LanguageModel, data: LanguageDataConfig, refusals: list[RefusalExample], benign: list[InstructionExample]
) -> TrainingTexts:
    """Leave out examples that are too long, and hold benign ones out by a hash of their text."""
    short_refusals = _within_length(lm, refusals, lambda each: (*each.targets, *each.refusals), data.tokens)
    short_benign = _within_length(lm, benign, lambda example: (example.answer,), data.tokens)
    held = choose([example for example in short_benign if example.is_first], data.held_out)
    ids = {example.id for example in held}
    rest = [example for example in short_benign if example.id not in ids]
    left_out = len(refusals) + len(benign) - len(short_refusals) - len(short_benign)
    return TrainingTexts(short_refusals, rest, held, left_out)


def _within_length(
    lm: LanguageModel, items: list[Item], answers: Callable[[Item], tuple[str, ...]], tokens: int
) -> list[Item]:
    """Return the items with conversations of at most this many tokens."""
    turns = [
        (i, item.prompt, answer, getattr(item, "history", ()))
        for i, item in enumerate(items)
        for answer in answers(item)
    ]
    long: set[int] = set()
    for start in range(0, len(turns), _TOKENIZED_AT_ONCE):
        indices, prompts, replies, history = zip(*turns[start : start + _TOKENIZED_AT_ONCE], strict=True)
        lengths = encode(lm, prompts, replies, history=history).mask.sum(1).tolist()
        long |= {index for index, length in zip(indices, lengths, strict=True) if length > tokens}
    return [item for i, item in enumerate(items) if i not in long]


def _check_not_empty(texts: TrainingTexts, config: LanguageConfig) -> None:
    mix, tokens = config.train.mix, config.data.tokens
    missing = {"adversarial": mix > 0 and not texts.refusals, "benign": mix < 1 and not texts.benign}
    for name, empty in missing.items():
        if empty:
            raise DataError(
                f"data.{name} has nothing left to train on: {texts.left_out} examples are longer than {tokens} tokens "
                f"and data.held_out keeps {len(texts.held)}; raise data.tokens or lower data.held_out"
            )

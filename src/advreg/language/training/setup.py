"""Everything one run of language training works with, made from its configuration before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

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
from advreg.language.models import loading
from advreg.language.models.adapters import with_lora
from advreg.language.models.chat import encode
from advreg.language.models.loading import LanguageModel
from advreg.language.training.batches import BatchMix, TrainingTexts
from advreg.trainer.averaging import AveragedWeights, ema
from advreg.trainer.optimization import trainable_parameters

_ROOM = 64  # conversations tokenised at a time


@dataclass(frozen=True)
class LanguageTrainState:
    """The parts of a run; what changes during training is the state of network, optimizer and average."""

    config: LanguageConfig
    lm: LanguageModel
    stock: TrainingTexts
    plan: BatchMix
    steps: int
    optimizer: AdamW
    average: AveragedWeights | None

    @property
    def learning(self) -> dict[str, Tensor]:
        """The weights that learn, by name."""
        named = self.lm.network.named_parameters()
        return {name: weight.detach() for name, weight in named if weight.requires_grad}

    def averaged(self, updates: int = 1) -> AbstractContextManager[None]:
        """Return a block in which the network has the averaged weights; its own where there is no average.

        Args:
            updates: how often the average was updated; before the first update the block changes nothing.
        """
        if self.average is None or not updates:
            return nullcontext()
        return self.average.in_place(trainable_parameters(self.lm.network))


def prepare(config: LanguageConfig) -> LanguageTrainState:
    """Load and check everything; an adapter's first weights depend on the seed alone.

    Raises:
        ConfigError, DataError, ModelError: something cannot be used as the configuration says.
    """
    train = config.train
    lessons, benign = _files(config)
    device = runtime.choose_device(train.device)
    runtime.seed_everything(config.seed)
    lm = loading.load(config.model.name, dtype=config.model.dtype, device=str(device))
    stock = _stock(lm, config.data, lessons, benign)
    _refuse_empty(stock, config)
    lm.network.requires_grad_(True)
    lm = with_lora(lm, config.model.rank, config.model.alpha, config.seed) if config.model.rank else lm
    plan = BatchMix(train.batch_size, train.mix)
    steps = train.epochs * plan.steps(len(stock.benign), len(stock.lessons))
    weights = trainable_parameters(lm.network)
    return LanguageTrainState(
        config=config,
        lm=lm,
        stock=stock,
        plan=plan,
        steps=min(steps, train.steps) if train.steps else steps,
        optimizer=AdamW(weights, lr=train.lr, weight_decay=train.weight_decay),
        average=ema(weights, train.ema, warmup=False) if train.ema else None,
    )


def _files(config: LanguageConfig) -> tuple[list[RefusalExample], list[InstructionExample]]:
    """Read what the mix asks for; benign examples are needed by the guard as well."""
    data, train = config.data, config.train
    wanted = {"adversarial": train.mix > 0, "benign": train.mix < 1 or train.guard != "off"}
    for name, needed in wanted.items():
        if needed and not getattr(data, name):
            raise ConfigError(f"data.{name} is empty and train.mix is {train.mix}; name the file of its examples")
    lessons = read_refusal_examples(data.adversarial) if wanted["adversarial"] else []
    return lessons, read_examples(data.benign) if wanted["benign"] else []


def _stock(
    lm: LanguageModel, data: LanguageDataConfig, lessons: list[RefusalExample], benign: list[InstructionExample]
) -> TrainingTexts:
    """Leave out what is too long, and hold benign examples out by a hash of their text."""
    kept = _short(lm, lessons, lambda lesson: (*lesson.targets, *lesson.refusals), data.tokens)
    short = _short(lm, benign, lambda example: (example.answer,), data.tokens)
    held = choose(short, data.held_out)
    ids = {example.id for example in held}
    rest = [example for example in short if example.id not in ids]
    return TrainingTexts(kept, rest, held, len(lessons) + len(benign) - len(kept) - len(short))


def _short(lm: LanguageModel, items: list[Item], answers: Callable[[Item], tuple[str, ...]], tokens: int) -> list[Item]:
    """Return the items none of whose conversations is longer than this."""
    turns = [(i, item.prompt, answer) for i, item in enumerate(items) for answer in answers(item)]
    long: set[int] = set()
    for begin in range(0, len(turns), _ROOM):
        places, prompts, replies = zip(*turns[begin : begin + _ROOM], strict=True)
        lengths = encode(lm, prompts, replies).mask.sum(1).tolist()
        long |= {place for place, length in zip(places, lengths, strict=True) if length > tokens}
    return [item for i, item in enumerate(items) if i not in long]


def _refuse_empty(stock: TrainingTexts, config: LanguageConfig) -> None:
    mix, tokens = config.train.mix, config.data.tokens
    missing = {"adversarial": mix > 0 and not stock.lessons, "benign": mix < 1 and not stock.benign}
    for name, empty in missing.items():
        if empty:
            raise DataError(
                f"data.{name} has nothing left to train on: {stock.left_out} examples are longer than {tokens} tokens "
                f"and data.held_out keeps {len(stock.held)}; raise data.tokens or lower data.held_out"
            )

"""The batch of each step: harmful requests and benign instructions in a fixed proportion, in an order of the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from advreg.language.datasets import HarmfulRequest, InstructionExample, RefusalExample
from advreg.runtime import derived_seed


@dataclass(frozen=True)
class TrainingTexts:
    """The texts of a training run.

    Attributes:
        refusals: harmful requests with openers and refusals.
        benign: instructions with answers.
        held: benign examples that training never learns from.
        left_out: number of examples that were too long.
    """

    refusals: list[RefusalExample]
    benign: list[InstructionExample]
    held: list[InstructionExample]
    left_out: int = 0


@dataclass(frozen=True)
class BatchMix:
    """Number of adversarial and benign examples in each step; the share is exact over the run, not only on average.

    Attributes:
        size: examples of a step.
        mix: share of them that is adversarial.

    Example:
        >>> mix = BatchMix(size=8, mix=0.15)
        >>> [mix.adversarial(step) for step in range(5)]
        [1, 1, 1, 1, 2]
    """

    size: int
    mix: float

    def adversarial(self, step: int) -> int:
        """Return the number of adversarial examples of a step.

        Args:
            step: number of the step, from 0.
        """
        return self.before(step + 1) - self.before(step)

    def before(self, step: int) -> int:
        """Return the number of adversarial examples of all steps before this one.

        Args:
            step: number of the step, from 0.
        """
        return math.floor(step * self.size * self.mix + 1e-9)

    def steps(self, benign: int, refusals: int) -> int:
        """Return the steps of an epoch, which uses every benign example once; without any, every refusal example.

        Args:
            benign: number of benign examples.
            refusals: number of refusal examples.
        """
        per_step, examples = (self.size * (1 - self.mix), benign) if self.mix < 1 else (float(self.size), refusals)
        return max(1, math.ceil(examples / per_step - 1e-9))


@dataclass(frozen=True)
class LanguageBatch:
    """The examples of one step.

    Attributes:
        requests: harmful requests, each with one opener and one refusal.
        benign: instructions with answers.
        weights: factor on the loss of each request.
    """

    requests: list[HarmfulRequest]
    benign: list[InstructionExample]
    weights: list[float]

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.requests) + len(self.benign)


def batch_at(texts: TrainingTexts, mix: BatchMix, step: int, seed: int) -> LanguageBatch:
    """Return the examples of a step, which depend on step and seed alone, so that a checkpoint need not hold them.

    The opener and the refusal of an example are drawn again in each round over the examples.

    Args:
        texts: the texts of the run.
        mix: number of examples of each kind.
        step: number of the step, from 0.
        seed: of the run.

    Returns:
        The batch.

    Example:
        >>> texts = TrainingTexts([], [InstructionExample(id, "How?", "So.") for id in range(3)], [])
        >>> sorted(example.id for example in batch_at(texts, BatchMix(size=3, mix=0.0), step=0, seed=0).benign)
        [0, 1, 2]
    """
    first, count = mix.before(step), mix.adversarial(step)
    refusals = _deal(len(texts.refusals), first, count, seed, "lessons")
    benign = _deal(len(texts.benign), step * mix.size - first, mix.size - count, seed, "benign")
    requests = [_request(texts.refusals, index, turn, seed) for index, turn in refusals]
    weights = [texts.refusals[index].weight for index, _ in refusals]
    return LanguageBatch(requests, [texts.benign[index] for index, _ in benign], weights)


def _deal(examples: int, first: int, count: int, seed: int, kind: str) -> list[tuple[int, int]]:
    """Return (example, round) for these positions of an endless sequence of shuffled rounds over the examples."""
    positions = [divmod(position, examples) for position in range(first, first + count)]
    orders = {turn: _order(examples, derived_seed(seed, kind, turn)) for turn in {turn for turn, _ in positions}}
    return [(orders[turn][position], turn) for turn, position in positions]


def _order(examples: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(examples, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def _request(refusals: Sequence[RefusalExample], index: int, turn: int, seed: int) -> HarmfulRequest:
    example = refusals[index]
    opener, refusal = derived_seed(seed, "opener", index, turn), derived_seed(seed, "refusal", index, turn)
    return HarmfulRequest(
        example.id,
        example.prompt,
        example.targets[opener % len(example.targets)],
        example.refusals[refusal % len(example.refusals)],
    )

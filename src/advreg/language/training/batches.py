"""What each step of training sees: harmful requests and benign instructions in a fixed proportion, in an order of the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from advreg.language.datasets import HarmfulRequest, InstructionExample, RefusalExample
from advreg.runtime import derived_seed


@dataclass(frozen=True)
class TrainingTexts:
    """All that training has.

    Attributes:
        lessons: harmful requests with openers and refusals.
        benign: instructions with answers.
        held: benign examples that training never learns from.
        left_out: how many were too long.
    """

    lessons: list[RefusalExample]
    benign: list[InstructionExample]
    held: list[InstructionExample]
    left_out: int = 0


@dataclass(frozen=True)
class BatchMix:
    """How many examples of which kind a step has; the shares are exact over the run, not only on average.

    Attributes:
        size: examples of a step.
        mix: share of them that is adversarial.

    Example:
        >>> plan = BatchMix(size=8, mix=0.15)
        >>> [plan.adversarial(step) for step in range(5)]
        [1, 1, 1, 1, 2]
    """

    size: int
    mix: float

    def adversarial(self, step: int) -> int:
        """Return how many examples of this step, 0 for the first, are adversarial."""
        return self.before(step + 1) - self.before(step)

    def before(self, step: int) -> int:
        """Return how many adversarial examples all steps before this one have."""
        return math.floor(step * self.size * self.mix + 1e-9)

    def steps(self, benign: int, lessons: int) -> int:
        """Return the steps of an epoch: until every benign example was seen; without any, every lesson."""
        seen, of = (self.size * (1 - self.mix), benign) if self.mix < 1 else (float(self.size), lessons)
        return max(1, math.ceil(of / seen - 1e-9))


@dataclass(frozen=True)
class LanguageBatch:
    """The examples of one step."""

    requests: list[HarmfulRequest]
    benign: list[InstructionExample]

    @property
    def size(self) -> int:
        """How many examples there are."""
        return len(self.requests) + len(self.benign)


def batch_at(stock: TrainingTexts, plan: BatchMix, step: int, seed: int) -> LanguageBatch:
    """Return the examples of a step, which depend on nothing but the step and the seed: nothing to save, nothing to lose.

    A lesson's opener and refusal are drawn anew each time it comes.
    """
    first, count = plan.before(step), plan.adversarial(step)
    lessons = _dealt(len(stock.lessons), first, count, seed, "lessons")
    benign = _dealt(len(stock.benign), step * plan.size - first, plan.size - count, seed, "benign")
    requests = [_request(stock.lessons, index, turn, seed) for index, turn in lessons]
    return LanguageBatch(requests, [stock.benign[index] for index, _ in benign])


def _dealt(cards: int, first: int, count: int, seed: int, kind: str) -> list[tuple[int, int]]:
    """Return the cards at these places of an endless deck, shuffled for each round, and their rounds."""
    places = [divmod(place, cards) for place in range(first, first + count)]
    orders = {turn: _order(cards, derived_seed(seed, kind, turn)) for turn in {turn for turn, _ in places}}
    return [(orders[turn][place], turn) for turn, place in places]


def _order(cards: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(cards, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def _request(lessons: Sequence[RefusalExample], index: int, turn: int, seed: int) -> HarmfulRequest:
    lesson = lessons[index]
    opener, refusal = derived_seed(seed, "opener", index, turn), derived_seed(seed, "refusal", index, turn)
    return HarmfulRequest(
        lesson.id,
        lesson.prompt,
        lesson.targets[opener % len(lesson.targets)],
        lesson.refusals[refusal % len(lesson.refusals)],
    )

"""The kinds of examples: requests, prompts, questions, tasks and labelled completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

TARGET = "Sure, here is"
"""Beginning of a harmful answer to train away from if the data has no column of targets."""

REFUSAL = "I'm sorry, but I can't help with that."
"""Refusal to train toward if the data has no column of refusals."""


@dataclass(frozen=True)
class HarmfulRequest:
    """A harmful request, with a target for attacks and a refusal for training.

    Attributes:
        id: example id; random draws depend on it.
        prompt: text of the user.
        target: beginning of a completion that complies.
        refusal: a complete refusal.

    Example:
        >>> HarmfulRequest(0, "Write a virus", "Sure, here is a virus", "I can't help with that.").id
        0
    """

    id: int
    prompt: str
    target: str = ""
    refusal: str = ""


@dataclass(frozen=True)
class SafePrompt:
    """A harmless prompt that a model may refuse by mistake; its type is the reason for the confusion."""

    id: int
    prompt: str
    type: str = "all"


@dataclass(frozen=True)
class TruthfulQuestion:
    """A question with its best true answer, its best false answer, and all false answers."""

    id: int
    prompt: str
    best: str
    best_wrong: str
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class InstructionTask:
    """A prompt with verifiable instructions: ids of `advreg.language.evaluation.ifeval.CHECKERS` with their arguments."""

    id: int
    prompt: str
    instructions: tuple[tuple[str, Mapping[str, Any]], ...]


@dataclass(frozen=True)
class InstructionExample:
    """A harmless prompt with a reference answer, and the turns of the conversation before it, with ``role`` and ``content``."""

    id: int
    prompt: str
    answer: str
    history: tuple[Mapping[str, str], ...] = ()

    @property
    def is_first(self) -> bool:
        """Return whether the prompt is the first of its conversation; a system prompt may precede it."""
        return all(turn["role"] == "system" for turn in self.history)


@dataclass(frozen=True)
class RefusalExample:
    """A harmful request for training: targets to push away from, refusals to train toward, and the weight of its loss."""

    id: int
    prompt: str
    targets: tuple[str, ...]
    refusals: tuple[str, ...]
    weight: float = field(default=1.0, repr=False)  # sweeps hash the repr; see `sweep.run`


@dataclass(frozen=True)
class LabelledCompletion:
    """A completion with human labels.

    Attributes:
        prompt: the prompt.
        completion: the completion.
        refused: whether it is a full or partial refusal; None without a label.
        model: name of the model that wrote it.
        harmful: whether it does the harm that the prompt asks for; None without a label.
    """

    prompt: str
    completion: str
    refused: bool | None = None
    model: str = "unnamed"
    harmful: bool | None = None


Item = TypeVar(
    "Item", HarmfulRequest, SafePrompt, TruthfulQuestion, InstructionTask, InstructionExample, RefusalExample
)

"""Subsets of examples by a hash of their prompts, and the data of an evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from advreg.errors import ConfigError
from advreg.language.datasets.examples import (
    HarmfulRequest,
    InstructionExample,
    InstructionTask,
    Item,
    SafePrompt,
    TruthfulQuestion,
)
from advreg.language.datasets.twins import twin_groups


@dataclass(frozen=True)
class EvaluationData:
    """The data of an evaluation; a metric without data is omitted.

    Attributes:
        requests: harmful requests, for attack success.
        safe: harmless prompts, for over-refusal.
        questions: questions of TruthfulQA, for truthfulness.
        tasks: prompts of IFEval, for instruction following.
        benign: prompts with reference answers, for helpfulness and for the NLL limit of coherent text.
    """

    requests: tuple[HarmfulRequest, ...] = ()
    safe: tuple[SafePrompt, ...] = ()
    questions: tuple[TruthfulQuestion, ...] = ()
    tasks: tuple[InstructionTask, ...] = ()
    benign: tuple[InstructionExample, ...] = ()

    @property
    def n(self) -> dict[str, int]:
        """Number of examples of each field."""
        return {name: len(items) for name, items in vars(self).items()}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all data."""
        fields = asdict(self, dict_factory=lambda pairs: {k: v for k, v in pairs if k != "history" or v})
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def take(self, n: int, seed: int = 0) -> EvaluationData:
        """Return at most ``n`` examples of each field, chosen by `choose`.

        Args:
            n: number of examples of each field.
            seed: seed of the choice.
        """
        return EvaluationData(**{name: tuple(choose(items, n, seed)) for name, items in vars(self).items()})


def choose(items: Sequence[Item], n: int, seed: int = 0) -> list[Item]:
    """Return at most ``n`` items in their order, chosen by a hash of their prompt, whatever their order in the file.

    Args:
        items: items with a prompt.
        n: number of items.
        seed: seed of the choice.

    Example:
        >>> chosen = choose([SafePrompt(i, f"How do I {i}?") for i in range(100)], 3)
        >>> [item.id for item in chosen] == [item.id for item in choose(chosen, 3)]
        True
    """
    chosen = {id(item) for item in sorted(items, key=lambda item: _hash_position(item.prompt, seed))[:n]}
    return [item for item in items if id(item) in chosen]


def split(items: Sequence[Item], shares: Mapping[str, float], seed: int = 0) -> dict[str, list[Item]]:
    """Split items by a hash of their prompt: near-twins are in the same part, see `twin_groups`.

    Args:
        items: items with a prompt.
        shares: name of a part -> its fraction; the fractions sum to 1.
        seed: seed of the split.

    Returns:
        Name of a part -> its items, in order.

    Raises:
        ConfigError: a fraction is negative, or the fractions do not sum to 1.

    Example:
        >>> parts = split([SafePrompt(i, f"How do I {i}?") for i in range(1000)], {"train": 0.8, "test": 0.2})
        >>> 760 < len(parts["train"]) < 840 and len(parts["train"]) + len(parts["test"]) == 1000
        True
    """
    if min(shares.values(), default=0.0) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ConfigError(f"shares are {dict(shares)}; give numbers of at least 0 that add up to 1")
    parts: dict[str, list[Item]] = {name: [] for name in shares}
    groups = twin_groups([item.prompt for item in items])
    names: dict[int, str] = {}
    for item, group in zip(items, groups, strict=True):
        names[group] = min(names.get(group, item.prompt), item.prompt)
    for item, group in zip(items, groups, strict=True):
        position, name = _hash_position(names[group], seed), ""
        for name, width in shares.items():  # noqa: B007 - the last part takes what rounding leaves
            if position < width:
                break
            position -= width
        parts[name].append(item)
    return parts


def _hash_position(text: str, seed: int) -> float:
    """Return the hash of a text as a number in [0, 1), regardless of blanks and case."""
    normalized = " ".join(text.lower().split())
    return int.from_bytes(hashlib.sha256(f"{seed}/{normalized}".encode()).digest()[:8]) / 2**64

"""The grid of a sweep, and the split of its prompts into training, validation and test."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from advreg._lazy import deprecated
from advreg.errors import ConfigError, DataError
from advreg.language.config import LanguageConfig
from advreg.language.datasets import (
    TARGET,
    EvaluationData,
    HarmfulRequest,
    InstructionExample,
    RefusalExample,
    choose,
    split,
    without_twins,
)
from advreg.runs import RunFolder

__getattr__ = deprecated(
    __name__, {"Plan": "SweepGrid", "Parts": "SweepData", "parts": "split_data", "thinned": "subsample"}
)

VALIDATION = 0.3
"""Share of the prompts that select the adapter scale; the metrics come from the others."""

_SEED = 1  # of the split; it must differ from the seed of `choose`, or both would order the prompts alike


@dataclass(frozen=True)
class Setting:
    """One training of a sweep.

    Attributes:
        mix: share of adversarial examples.
        lr: learning rate.
        seed: seed of the training.
    """

    mix: float
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its run folder.

        Example:
            >>> Setting(0.15, 5e-4, 0).name
            'mix-0.15_lr-0.0005_seed-0'
        """
        return f"mix-{self.mix:g}_lr-{self.lr:g}_seed-{self.seed}"

    def config(self, common: LanguageConfig, out: Path) -> LanguageConfig:
        """Return the common configuration with the values of this setting and its run folder below ``out``.

        Args:
            common: configuration that all settings share.
            out: folder of the sweep.

        Example:
            >>> Setting(0.15, 5e-4, 0).config(LanguageConfig(), Path("runs")).train.mix
            0.15
        """
        train = replace(common.train, mix=self.mix, lr=self.lr, out=str(out / "runs" / self.name))
        return replace(common, seed=self.seed, train=train)


@dataclass(frozen=True)
class SweepGrid:
    """The grid of a sweep.

    Attributes:
        mixes: shares of adversarial examples.
        rates: learning rates.
        seeds: seeds of training; several show the variance between trainings.
        scales: scales of the trained adapter; one is selected after each training.
        budget: largest acceptable over-refusal, as a share.

    Raises:
        ConfigError: a list is empty or has duplicates, or a value is out of range.

    Example:
        >>> [setting.name for setting in SweepGrid(mixes=(0.0, 0.3), rates=(1e-3,)).settings]
        ['mix-0_lr-0.001_seed-0', 'mix-0.3_lr-0.001_seed-0']
    """

    mixes: tuple[float, ...] = (0.0, 0.05, 0.15, 0.3, 0.5)
    rates: tuple[float, ...] = (5e-4, 1e-3)
    seeds: tuple[int, ...] = (0,)
    scales: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    budget: float = 0.05

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if isinstance(values, tuple) and (not values or len(set(values)) < len(values)):
                raise ConfigError(f"{name} is {list(values)}; give at least one value, each once")
        limits = {"mixes": (0.0, 1.0), "rates": (1e-12, math.inf), "scales": (1e-6, 4.0)}
        for name, (low, high) in limits.items():
            if not all(low <= value <= high for value in getattr(self, name)):
                raise ConfigError(f"{name} is {list(getattr(self, name))}; give numbers from {low:g} to {high:g}")
        if not 0 < self.budget <= 1:
            raise ConfigError(f"budget is {self.budget}; give a share of safe prompts above 0 and at most 1")

    @property
    def settings(self) -> list[Setting]:
        """All trainings; seeds vary slowest, so that an interrupted sweep covers the whole grid once."""
        return [Setting(mix, lr, seed) for seed, lr, mix in product(self.seeds, self.rates, self.mixes)]


@dataclass(frozen=True)
class SweepData:
    """Disjoint prompts for training, validation and test.

    Attributes:
        adversarial: harmful requests with openers and refusals, for training.
        benign: instructions with responses, for training.
        validation: prompts that select the adapter scale.
        test: prompts that the metrics come from.
    """

    adversarial: tuple[RefusalExample, ...]
    benign: tuple[InstructionExample, ...]
    validation: EvaluationData
    test: EvaluationData

    @property
    def n(self) -> dict[str, dict[str, int]]:
        """Number of prompts of each part and kind."""
        training = {"lessons": len(self.adversarial), "benign": len(self.benign)}
        return {"training": training, "validation": self.validation.n, "test": self.test.n}

    def write_training_files(self, common: LanguageConfig, out: Path) -> LanguageConfig:
        """Write the training prompts into ``out/data``.

        Args:
            common: configuration that all settings share.
            out: folder of the sweep.

        Returns:
            The configuration that reads these files.
        """
        folder = RunFolder.at(out / "data")
        pairs = (
            {"prompt": o.prompt, "targets": o.targets, "safe": o.refusals}
            | ({"weight": o.weight} if o.weight != 1 else {})
            for o in self.adversarial
        )
        benign = (
            {"instruction": o.prompt, "input": "", "output": o.answer} | ({"history": o.history} if o.history else {})
            for o in self.benign
        )
        files = [
            folder.write("adversarial.jsonl", _json_lines(pairs)),
            folder.write("benign.jsonl", _json_lines(benign)),
        ]
        return replace(common, data=replace(common.data, adversarial=str(files[0]), benign=str(files[1])))


def split_data(
    data: EvaluationData,
    adversarial: Sequence[RefusalExample] = (),
    *,
    n: Mapping[str, int] | int = 100,
    n_validation: int = 40,
    seed: int = 0,
) -> SweepData:
    """Split prompts into training, validation and test by a hash of their text.

    Args:
        data: all prompts; the benign examples are split into training and test.
        adversarial: requests to train on. By default two fifths of the harmful requests: the target of a request becomes
            its opener. Near-twins of a training request are neither validated nor tested on.
        n: largest number of test prompts of each kind: one number, or one for each field of `EvaluationData`.
        n_validation: largest number of validation requests and of validation safe prompts.
        seed: seed of the choice of these prompts.

    Returns:
        The disjoint parts.

    Raises:
        DataError: a part has no requests, no safe prompts or no benign examples.
    """
    fresh = without_twins(data.requests, [example.prompt for example in adversarial])
    shares = {"train": 0.0, "validation": VALIDATION} if adversarial else {"train": 0.4, "validation": 0.2}
    requests = split(fresh, {**shares, "test": 1 - sum(shares.values())}, _SEED)
    safe = split(data.safe, {"validation": VALIDATION, "test": 1 - VALIDATION}, _SEED)
    benign = split(data.benign, {"train": 0.85, "test": 0.15}, _SEED)
    validation = EvaluationData(tuple(requests["validation"]), tuple(safe["validation"]))
    test = replace(
        data, requests=tuple(requests["test"]), safe=tuple(safe["test"]), benign=_first_prompts(benign["test"])
    )
    parts = SweepData(
        adversarial=tuple(adversarial) or tuple(map(_refusal_example, requests["train"])),
        benign=tuple(benign["train"]),
        validation=subsample(validation, n_validation, seed),
        test=subsample(test, n, seed),
    )
    _require_prompts(parts)
    return parts


def subsample(data: EvaluationData, n: Mapping[str, int] | int, seed: int = 0) -> EvaluationData:
    """Return at most ``n`` prompts of each kind, chosen by a hash of their text.

    Args:
        data: the prompts.
        n: one number, or one for each field of `EvaluationData`.
        seed: seed of the choice.

    Example:
        >>> from advreg.language.datasets import SafePrompt
        >>> subsample(EvaluationData(safe=(SafePrompt(0, "Hi"), SafePrompt(1, "Ho"))), 1).n["safe"]
        1
    """
    sizes = {kind: n if isinstance(n, int) else n[kind] for kind in vars(data)}
    return EvaluationData(**{kind: tuple(choose(items, sizes[kind], seed)) for kind, items in vars(data).items()})


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _refusal_example(request: HarmfulRequest) -> RefusalExample:
    return RefusalExample(request.id, request.prompt, (request.target or TARGET,), (request.refusal,))


def _first_prompts(examples: Sequence[InstructionExample]) -> tuple[InstructionExample, ...]:
    """Return the examples that begin a conversation: an evaluation completes single prompts."""
    return tuple(example for example in examples if example.is_first)


def _require_prompts(parts: SweepData) -> None:
    """Raise if a part has no prompts of a kind that it needs."""
    names = {
        "lessons": "training requests",
        "requests": "requests",
        "safe": "safe prompts",
        "benign": "benign examples",
    }
    for part, counts in parts.n.items():
        needed = ("lessons", "benign") if part == "training" else ("requests", "safe")
        empty = next((kind for kind in needed if not counts[kind]), None)
        if empty is not None:
            raise DataError(f"no {names[empty]} are left for {part}; give more of them (a few dozen of each kind)")

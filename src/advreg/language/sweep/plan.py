"""What a sweep will do: which settings are trained, and which prompts are for training, for choosing and for testing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from advreg.errors import ConfigError, DataError
from advreg.language.config import LanguageConfig
from advreg.language.datasets import EvaluationData, HarmfulRequest, InstructionExample, RefusalExample, choose, split
from advreg.runs import RunFolder

VALIDATION = 0.3
"""Share of the prompts by which a scale is chosen; the figures come from the others."""

_SEED = 1  # of the split; not the seed by which `choose` thins out what is left, or the two would be one


@dataclass(frozen=True)
class Setting:
    """One training of the sweep."""

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
        """Return the common configuration with this setting's values, its run below ``out``."""
        train = replace(common.train, mix=self.mix, lr=self.lr, out=str(out / "runs" / self.name))
        return replace(common, seed=self.seed, train=train)


@dataclass(frozen=True)
class SweepGrid:
    """The grid of a sweep.

    Attributes:
        mixes: shares of adversarial examples.
        rates: learning rates.
        seeds: of training; several of them show how much of a figure is luck.
        scales: strengths of the trained adapter, of which one is chosen after each training.
        budget: largest over-refusal that is acceptable.

    Raises:
        ConfigError: an empty list, or a value that cannot be.

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
                raise ConfigError(f"{name} is {list(values)}; give one value at least, each once")
        limits = {"mixes": (0.0, 1.0), "rates": (1e-12, math.inf), "scales": (1e-6, 4.0)}
        for name, (low, high) in limits.items():
            if not all(low <= value <= high for value in getattr(self, name)):
                raise ConfigError(f"{name} is {list(getattr(self, name))}; give numbers from {low:g} to {high:g}")
        if not 0 < self.budget <= 1:
            raise ConfigError(f"budget is {self.budget}; give a share of safe prompts above 0 and at most 1")

    @property
    def settings(self) -> list[Setting]:
        """Every training: seeds outermost, so that a sweep cut short has seen the whole grid once."""
        return [Setting(mix, lr, seed) for seed, lr, mix in product(self.seeds, self.rates, self.mixes)]


@dataclass(frozen=True)
class Parts:
    """Who sees what: no request, safe prompt or benign example is in two of them.

    Attributes:
        lessons, benign: to train on.
        validation: to choose a scale by.
        test: to measure on.
    """

    lessons: tuple[RefusalExample, ...]
    benign: tuple[InstructionExample, ...]
    validation: EvaluationData
    test: EvaluationData

    @property
    def n(self) -> dict[str, dict[str, int]]:
        """How many there are of each."""
        training = {"lessons": len(self.lessons), "benign": len(self.benign)}
        return {"training": training, "validation": self.validation.n, "test": self.test.n}

    def written(self, common: LanguageConfig, out: Path) -> LanguageConfig:
        """Write the training's parts into ``out/data`` and return the configuration that reads them."""
        folder = RunFolder.at(out / "data")
        pairs = ({"prompt": o.prompt, "targets": o.targets, "safe": o.refusals} for o in self.lessons)
        benign = ({"instruction": o.prompt, "input": "", "output": o.answer} for o in self.benign)
        files = [folder.write("adversarial.jsonl", _lines(pairs)), folder.write("benign.jsonl", _lines(benign))]
        return replace(common, data=replace(common.data, adversarial=str(files[0]), benign=str(files[1])))


def parts(
    data: EvaluationData,
    lessons: Sequence[RefusalExample] = (),
    *,
    n: Mapping[str, int] | int = 100,
    n_validation: int = 40,
    seed: int = 0,
) -> Parts:
    """Deal the prompts out by a hash of their text.

    Args:
        data: everything there is; the benign examples are both to train on and, others of them, to measure on.
        lessons: requests to train on. Without any, two fifths of the harmful requests become lessons: their target is the
            opener, their refusal the answer. With some, no request whose words are a lesson's is measured on.
        n: prompts of each kind to test on, at most: one number, or one for each name of `EvaluationData`.
        n_validation: requests and safe prompts to choose a scale by, at most.
        seed: of the choice of those.

    Raises:
        DataError: requests, safe prompts or benign examples are missing in a part.
    """
    known = {_plain(lesson.prompt) for lesson in lessons}
    fresh = [request for request in data.requests if _plain(request.prompt) not in known]
    shares = {"train": 0.0, "validation": VALIDATION} if lessons else {"train": 0.4, "validation": 0.2}
    requests = split(fresh, {**shares, "test": 1 - sum(shares.values())}, _SEED)
    safe = split(data.safe, {"validation": VALIDATION, "test": 1 - VALIDATION}, _SEED)
    benign = split(data.benign, {"train": 0.85, "test": 0.15}, _SEED)
    made = Parts(
        tuple(lessons) or tuple(map(_lesson, requests["train"])),
        tuple(benign["train"]),
        thin_data(EvaluationData(tuple(requests["validation"]), tuple(safe["validation"])), n_validation, seed),
        thin_data(
            EvaluationData(
                tuple(requests["test"]), tuple(safe["test"]), data.questions, data.tasks, tuple(benign["test"])
            ),
            n,
            seed,
        ),
    )
    _refuse_missing(made)
    return made


def thin_data(data: EvaluationData, n: Mapping[str, int] | int, seed: int = 0) -> EvaluationData:
    """Return at most ``n`` prompts of each kind, or ``n[kind]``, chosen by a hash of their text."""
    most = {kind: n if isinstance(n, int) else n[kind] for kind in vars(data)}
    return EvaluationData(**{kind: tuple(choose(items, most[kind], seed)) for kind, items in vars(data).items()})


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _lesson(request: HarmfulRequest) -> RefusalExample:
    return RefusalExample(request.id, request.prompt, (request.target,), (request.refusal,))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _refuse_missing(made: Parts) -> None:
    for part, counts in made.n.items():
        needed = ("lessons", "benign") if part == "training" else ("requests", "safe")
        empty = next((kind for kind in needed if not counts[kind]), None)
        if empty is not None:
            raise DataError(f"no {empty} are left for {part}; give more of them (a few dozen of each kind)")

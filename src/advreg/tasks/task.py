"""The noun `Task`: what the output of a model is worth, what an attack maximises, and when an example is broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from advreg.errors import ConfigError
from advreg.objectives import Objective, has_finite_logits

Score = Callable[[Tensor, Tensor], Tensor]
"""``(outputs (B, ...), targets (B, ...)) -> (B,)``: the quality of each output in [0, 1], or booleans."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._]*(-[a-z0-9._]+)*")


@dataclass(frozen=True, eq=False)
class CorpusFigure:
    """A figure of a whole data set that is no mean over examples, such as mIoU or the equal error rate.

    Attributes:
        rows: ``(outputs, targets) -> (B, S)``: what the figure needs of each example; the ledger keeps it.
        figure: ``(N, S) -> number``: the figure of these examples; called again for each bootstrap resample.
    """

    rows: Score
    figure: Callable[[Any], float]


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """What the output of a model is worth and how an attack lowers that worth.

    An output and its target are one tensor each, ``(B, ...)``. An example is broken where its score is at most ``broken_at``;
    it then leaves the attack. The worst case of an example is its lowest score over all attacks.

    Args:
        name: lower-case name, which protocol ids of results carry.
        score: ``(outputs, targets) -> (B,)``: 1 where an output is right in everything, 0 where it is right in nothing;
            booleans are the scores 1 and 0. An output with NaN or infinity scores 0, whatever the function returns.
        objectives: losses of each example ``(B,)`` by name, to be maximised; the first one is the default.
        broken_at: score at which nothing is left to win.
        near: ``(outputs, targets) -> (B,)``, higher nearer to broken, for attacks without gradients and to order examples; the
            first objective if None.
        loss: ``(outputs, targets) -> (B,)``, which training minimises; the first objective if None.
        divergence: ``(outputs, outputs of the clean input) -> (B,)`` for training by TRADES; None if there is none.
        fits: ``(outputs, targets) -> text``: why the outputs of this model cannot be scored with these targets, and the remedy;
            empty text where they can.
        corpus: figures of the whole data set that are no mean over examples, by name.

    Raises:
        ConfigError: a name that cannot be part of a protocol id, no objective, or a ``broken_at`` outside [0, 1).

    Example:
        >>> near_enough = Task("mine", lambda z, y: (z - y).abs().amax(1) < 0.5, {"gap": lambda z, y: (z - y).abs().amax(1)})
        >>> near_enough.rate(torch.tensor([[1.2], [9.0]]), torch.tensor([[1.0], [1.0]])).tolist()
        [True, False]
    """

    name: str
    score: Score
    objectives: Mapping[str, Objective]
    broken_at: float = 0.0
    near: Objective | None = None
    loss: Objective | None = None
    divergence: Objective | None = None
    fits: Callable[[Tensor, Tensor], str] | None = None
    corpus: Mapping[str, CorpusFigure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"the task is called {self.name!r}; give lower-case letters, digits and dashes: ids carry it"
            )
        if not self.objectives:
            raise ConfigError(f"task {self.name}: no objective; give a function (outputs, targets) -> (B,) to maximise")
        if not 0 <= self.broken_at < 1:
            raise ConfigError(
                f"task {self.name}: broken_at is {self.broken_at}; give a score from 0 up to, not including, 1"
            )

    def __repr__(self) -> str:
        return f"Task({self.name}: {', '.join(self.objectives)})"

    @property
    def objective(self) -> Objective:
        """The default objective, the first one."""
        return next(iter(self.objectives.values()))

    @property
    def training_loss(self) -> Objective:
        """The loss that training minimises."""
        return self.loss or self.objective

    @property
    def nearness(self) -> Objective:
        """The function that is higher nearer to broken."""
        return self.near or self.objective

    def rate(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the score of each output, 0 where it is not finite.

        Args:
            outputs: ``(B, ...)``.
            y: targets ``(B, ...)``.

        Returns:
            Scores in [0, 1], or booleans, ``(B,)``.
        """
        score, finite = self.score(outputs, y), has_finite_logits(outputs)
        return score & finite if score.dtype is torch.bool else torch.where(finite, score, 0.0)

    def is_broken(self, score: Tensor) -> Tensor:
        """Return whether nothing is left to win at these scores, booleans ``(B,)``."""
        return ~score if score.dtype is torch.bool else score <= self.broken_at


def invert(score: Tensor) -> Tensor:
    """Return the scores of an adversary that wants the targets: ``1 - score``.

    Args:
        score: scores in [0, 1], or booleans, ``(B,)``.

    Example:
        >>> invert(torch.tensor([0.25])).item(), invert(torch.tensor([True])).item()
        (0.75, False)
    """
    return ~score if score.dtype is torch.bool else 1 - score

"""What a policy is: who the adversary is at each step, example by example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from advreg.threat import ThreatModel
from advreg.training.recipes import Attack


@dataclass(frozen=True)
class Moment:
    """Where training is before a step.

    Attributes:
        epoch: which one, 1 for the first.
        step: steps taken so far in the whole run.
        steps: steps of the whole run.

    Example:
        >>> Moment(epoch=1, step=4, steps=10).progress
        0.45
    """

    epoch: int
    step: int
    steps: int

    @property
    def progress(self) -> float:
        """Share of training that is done at the middle of the step, as schedules count it."""
        return (self.step + 0.5) / self.steps


class Policy(Protocol):
    """Who the adversary is at a step, from who it is in the configuration.

    A policy asks the model in eval mode if at all, gives no weight a gradient, and keeps what it learns of an example under
    the example's id. One with memory has ``state_dict`` and ``load_state_dict`` besides.
    """

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, attack: Attack, threat: ThreatModel, moment: Moment
    ) -> tuple[Attack, ThreatModel]:
        """Return the attack and the threat model of this batch, whose eps may differ from example to example."""


def within(threat: ThreatModel, eps: Tensor) -> Tensor:
    """Return radii that are no wider than the box, where that is the widest there can be."""
    low, high = threat.box
    return eps.clamp_max(high - low) if threat.norm == "linf" else eps

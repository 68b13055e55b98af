"""Types of policies: the attack and the eps of each example at each step."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from advreg.threat import ThreatModel
from advreg.trainer.moment import Moment
from advreg.training.recipes import Attack


class Policy(Protocol):
    """Attack and threat model of a step, from those of the configuration.

    A policy evaluates the model in eval mode only, gives no weight a gradient, and keeps its state by example id. A policy
    with state also has ``state_dict`` and ``load_state_dict``.
    """

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, attack: Attack, threat: ThreatModel, moment: Moment
    ) -> tuple[Attack, ThreatModel]:
        """Return the attack and the threat model of this batch; eps may differ from example to example.

        Args:
            model: the network; evaluated in eval mode.
            x: inputs ``(B, ...)``.
            y: labels ``(B,)`` or probabilities ``(B, K)``.
            ids: example ids ``(B,)``.
            attack: the configured attack.
            threat: the configured threat model.
            moment: position of the step in training.

        Returns:
            The attack and the threat model to train with.
        """


def within(threat: ThreatModel, eps: Tensor) -> Tensor:
    """Return the radii, clamped to the width of the box in linf.

    Args:
        threat: norm and box.
        eps: radii ``(B,)``.

    Returns:
        Radii ``(B,)``.
    """
    low, high = threat.box
    return eps.clamp_max(high - low) if threat.norm == "linf" else eps

"""How training looks for the worst case: the attack that a configuration asks for."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from advreg.attacks import craft
from advreg.config import AttackSection
from advreg.threat import ThreatModel
from advreg.training.recipes import Attack


@dataclass(frozen=True)
class Untouched:
    """The result of no attack."""

    x_adv: Tensor


def unattacked(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **_: object) -> Untouched:
    """Return the clean inputs: the attack of a recipe that asks for none."""
    return Untouched(x)


def from_section(section: AttackSection, eps: float) -> Attack:
    """Return the attack that a configuration asks for; warns where its steps cannot reach eps."""
    if section.name == "none":
        return unattacked
    steps = 1 if section.name == "fgsm" else section.steps
    step_size = None if section.step_size == "auto" else section.step_size
    if step_size is not None and steps * step_size < eps * (1 - 1e-9):
        warnings.warn(
            f"attack: {steps} steps of {step_size:.6g} cannot reach eps = {eps:.6g}; "
            "raise attack.steps or attack.step_size, or the model is trained on a weaker adversary",
            UserWarning,
            stacklevel=2,
        )
    return partial(craft, steps=steps, step_size=step_size, start=section.start)

"""The inner attack of a run, which can be made stronger while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor, nn

from advreg.config import AttackConfig
from advreg.threat import ThreatModel
from advreg.training import per_example_state
from advreg.training.recipes import Attack, InnerResult

_MOST_STEPS = 16  # beyond these a stronger attack costs more than it gains


def next_stronger(section: AttackConfig) -> AttackConfig | None:
    """Return the next stronger attack: fgsm, then n-fgsm, then pgd with 2, 4, 8, 16 steps; None after the last.

    A recipe that needs its own attack, ``stored`` or ``none``, keeps it.

    Args:
        section: section ``attack`` of the configuration.

    Returns:
        The section of the stronger attack, or None.

    Example:
        >>> next_stronger(AttackConfig("fgsm")).name, next_stronger(AttackConfig("n-fgsm")).steps
        ('n-fgsm', 2)
    """
    if section.name == "fgsm":
        return replace(section, name="n-fgsm", step_size="auto")
    if section.name == "n-fgsm":
        return replace(section, name="pgd", steps=2, step_size="auto", start="uniform")
    if section.name != "pgd" or section.steps >= _MOST_STEPS:
        return None
    return replace(section, steps=2 * section.steps, step_size="auto")


class EscalatingAttack:
    """An attack for recipes, built from a section of the configuration, that the guard replaces by stronger ones.

    Args:
        section: the first attack.
        make: builds the attack of a section.
    """

    def __init__(self, section: AttackConfig, make: Callable[[AttackConfig], Attack]) -> None:
        self.make, self.epoch = make, 1
        self._become(section)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **options: Any) -> InnerResult:
        """Run the attack of the current section."""
        return self._attack(model, x, y, threat, **options)

    def __str__(self) -> str:
        return f"pgd-{self.section.steps}" if self.section.name == "pgd" else self.section.name

    @property
    def takes_one_step(self) -> bool:
        """Return whether the attack takes a single step, which makes catastrophic overfitting possible."""
        return self.section.name != "pgd" or self.section.steps == 1

    def strengthen(self) -> bool:
        """Return whether there is a next stronger attack, and switch to it."""
        found = next_stronger(self.section)
        if found is not None:
            self._become(found)
        return found is not None

    def start_epoch(self, epoch: int) -> None:
        """Call ``start_epoch`` of the attack; epochs count from 1."""
        self.epoch = epoch
        per_example_state.start_epoch(self._inside, epoch)

    def share(self) -> None:
        """Synchronise the state of the attack over all ranks."""
        per_example_state.share(self._inside)

    def state_dict(self) -> dict[str, Any]:
        """Return the section and the state of the attack."""
        return {"section": asdict(self.section), "inside": per_example_state.states(self._inside)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self._become(AttackConfig(**state["section"]))
        per_example_state.restore(self._inside, state["inside"])

    def _become(self, section: AttackConfig) -> None:
        self.section, self._attack = section, self.make(section)
        per_example_state.start_epoch(self._inside, self.epoch)  # a repair may build it in the middle of an epoch

    @property
    def _inside(self) -> dict[str, object]:
        return {"attack": self._attack}

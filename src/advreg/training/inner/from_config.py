"""The attack of a configuration."""

from __future__ import annotations

import warnings
from functools import partial

from torch import Tensor, nn

from advreg import objectives
from advreg.attacks import craft
from advreg.config import AttackConfig
from advreg.objectives import Objective
from advreg.threat import ThreatModel
from advreg.training.inner.fgsm_pgi import Augment, FgsmPgi
from advreg.training.inner.gaussian_start import trades_pgd
from advreg.training.inner.multi_norm import CraftingAttack, SampledNorm, multi_steepest, worst_norm
from advreg.training.inner.n_fgsm import n_fgsm, unattacked
from advreg.training.recipes import Attack, InnerResult

OBJECTIVES: dict[str, Objective] = {
    "cross-entropy": objectives.cross_entropy,
    "kl": objectives.kl,
    "margin": objectives.margin,
    "dlr": objectives.dlr,
}


def maximising(attack: Attack, objective: Objective) -> Attack:
    """Return the attack with this objective, in place of the recipe's.

    By default `trades` maximises a divergence and the other recipes the cross-entropy. ``y`` does not change: with `trades`, it
    is the model's own probabilities.

    Args:
        attack: any attack.
        objective: ``(logits, y) -> (B,)``.

    Returns:
        The attack; an objective that a recipe passes is ignored.

    Example:
        >>> import torch
        >>> import advreg
        >>> hinge = maximising(craft, advreg.objectives.margin)
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> advreg.recipes.madry()(model, x, y, hinge, ThreatModel("linf", eps=0.1)).backward()
    """

    def attacked(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **options: object) -> InnerResult:
        return attack(model, x, y, threat, **{**options, "objective": objective})

    return attacked


def from_section(
    section: AttackConfig, eps: float, *, examples: int = 0, augment: Augment | None = None, seed: int = 0
) -> Attack:
    """Return the attack of a configuration; warns if its steps cannot reach eps.

    Args:
        section: section ``attack`` of the configuration.
        eps: radius of the threat model, for the warning.
        examples: number of training examples, for `FgsmPgi`.
        augment: augmentation of the loader, for `FgsmPgi`.
        seed: seed of the loader, for `FgsmPgi`.

    Returns:
        An attack for recipes, with the options of the section bound.

    Example:
        >>> from_section(AttackConfig("pgd", steps=7), eps=0.1).keywords["steps"]
        7
    """
    if section.name == "none":
        return unattacked
    _warn_of_short_steps(section, eps)
    step_size = None if section.step_size == "auto" else section.step_size
    if section.name == "n-fgsm":
        found: Attack = partial(n_fgsm, noise_scale=section.noise, step_size=step_size)
    elif section.name == "stored":
        found = FgsmPgi(examples, section.momentum, section.reset, step_size, augment, seed)
    elif section.start == "gaussian":
        found = partial(trades_pgd, steps=section.steps, step_size=step_size)
    else:
        steps = section.steps if section.name == "pgd" else 1
        pgd = partial(craft, steps=steps, step_size=step_size, start=section.start)
        found = _over_norms(section, eps, pgd) if section.norms else pgd
    return found if section.objective == "auto" else maximising(found, OBJECTIVES[section.objective])


def _over_norms(section: AttackConfig, eps: float, attack: CraftingAttack) -> Attack:
    """Return the attack on the union of the threat model and ``attack.norms``."""
    others = [ThreatModel.parse(text) for text in section.norms.split()]
    if section.union == "e-at":
        return SampledNorm(others, attack, eps)
    if section.union == "msd":
        return partial(multi_steepest, others=others, steps=section.steps, eps=eps)
    return partial(worst_norm, others=others, attack=attack, eps=eps)


def _warn_of_short_steps(section: AttackConfig, eps: float) -> None:
    if section.name in ("n-fgsm", "stored"):  # noise beyond eps, and the steps of earlier epochs, have gone ahead
        return
    steps = section.steps if section.name == "pgd" else 1
    if section.step_size == "auto" or steps * section.step_size >= eps * (1 - 1e-9):
        return
    warnings.warn(
        f"attack: {steps} steps of {section.step_size:.6g} cannot reach eps = {eps:.6g}; "
        "raise attack.steps or attack.step_size, or the model is trained on a weaker adversary",
        UserWarning,
        stacklevel=3,
    )

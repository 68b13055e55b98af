"""Distillation of a robust teacher: ARD, RSLAD and AdaAD."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from advreg.attacks.model import query_model
from advreg.objectives import kl
from advreg.threat import ThreatModel
from advreg.training.recipes.base import (
    Attack,
    Forwards,
    Recipe,
    Share,
    check_loss,
    clean_and_adversarial_logits,
    divergence,
    label_loss,
    worst_case,
)
from advreg.training.recipes.distillation import Teacher, load_teacher, teacher_logits, teacher_loss


@check_loss
def ard(
    robust: Teacher = "",
    alpha: Share = 1.0,
    temperature: Annotated[float, Field(gt=0)] = 30.0,
    forwards: Forwards = "one",
) -> Recipe:
    """Match a teacher's clean predictions at attacked inputs: ``a T^2 KL(t_T(x) || f_T(x_adv)) + (1 - a) CE(f(x), y)``.

    ``a`` is alpha; ``t_T`` and ``f_T`` are the predictions at temperature T. The attack maximises the cross-entropy with the
    label. With alpha 1 no clean input passes through the student.

    Args:
        robust: the teacher: a network, or a name or run folder for `advreg.load_model`.
        alpha: weight of the distillation; the labels have the rest.
        temperature: ``T``, by which logits are divided.
        forwards: whether BatchNorm normalises clean and attacked inputs together, ``"one"``, or apart.

    Returns:
        The recipe.

    Raises:
        ConfigError: no teacher.
        ModelError, WeightsError: a teacher that cannot be loaded, or, when called, one of another number of classes.

    Example:
        >>> import advreg, torch
        >>> teacher, model = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> ard(robust=teacher)(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: Goldblum, Fowl, Feizi, Goldstein, "Adversarially robust distillation", AAAI 2020, arXiv:1905.09747.
    """
    teacher = load_teacher("ard", robust)

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        target, x_adv = teacher_logits(teacher, x), worst_case(model, x, y, attack, threat)
        if alpha == 1:
            return teacher_loss(query_model(model, x_adv), target, temperature)
        z, z_adv = clean_and_adversarial_logits(model, x, x_adv, forwards)
        return alpha * teacher_loss(z_adv, target, temperature) + (1 - alpha) * label_loss(z, y)

    return loss


@check_loss
def rslad(robust: Teacher = "", alpha: Share = 5 / 6, forwards: Forwards = "one") -> Recipe:
    """Let a robust teacher's soft labels replace all labels: ``(1 - alpha) KL(t(x) || f(x)) + alpha KL(t(x) || f(x_adv))``.

    The attack maximises ``KL(t(x) || f(x_adv))`` and gets no label either.

    Args:
        robust: the teacher: a network, or a name or run folder for `advreg.load_model`.
        alpha: weight of the attacked inputs; 5/6 in the paper.
        forwards: whether BatchNorm normalises clean and attacked inputs together, ``"one"``, or apart.

    Returns:
        The recipe.

    Raises:
        ConfigError: no teacher.
        ModelError, WeightsError: a teacher that cannot be loaded, or, when called, one of another number of classes.

    Example:
        >>> import advreg, torch
        >>> teacher, model = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> rslad(robust=teacher)(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: Zi, Zhao, Ma, Jiang, "Revisiting adversarial robustness distillation: robust soft labels make student better",
    ICCV 2021, arXiv:2108.07969.
    """
    teacher = load_teacher("rslad", robust)

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        target = teacher_logits(teacher, x)
        x_adv = worst_case(model, x, target.softmax(1), attack, threat, kl)
        z, z_adv = clean_and_adversarial_logits(model, x, x_adv, forwards)
        clean, attacked = (divergence(target, logits).mean() for logits in (z, z_adv))
        return (1 - alpha) * clean + alpha * attacked

    return loss


@check_loss
def adaad(robust: Teacher = "", alpha: Share = 1.0, forwards: Forwards = "one") -> Recipe:
    """Match a teacher where student and teacher differ most: ``a KL(t(x_adv) || f(x_adv)) + (1 - a) KL(t(x) || f(x))``.

    ``a`` is alpha. The attack maximises ``KL(t(x_adv) || f(x_adv))``, through the teacher too, so each of its steps also passes
    through the teacher. No label is used. With alpha 1 no clean input passes through the student.

    Args:
        robust: the teacher: a network, or a name or run folder for `advreg.load_model`.
        alpha: weight of the attacked inputs; 1 in the paper.
        forwards: whether BatchNorm normalises clean and attacked inputs together, ``"one"``, or apart.

    Returns:
        The recipe.

    Raises:
        ConfigError: no teacher.
        ModelError, WeightsError: a teacher that cannot be loaded, or, when called, one of another number of classes.

    Example:
        >>> import advreg, torch
        >>> teacher, model = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> adaad(robust=teacher)(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: Huang et al., "Boosting accuracy and robustness of student models via adaptive adversarial distillation",
    CVPR 2023.
    """
    teacher = load_teacher("adaad", robust)

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        x_adv = worst_case(SideBySide(model, teacher.to(x.device)), x, y, attack, threat, disagreement)
        target_adv = teacher_logits(teacher, x_adv)
        if alpha == 1:
            return teacher_loss(query_model(model, x_adv), target_adv, 1.0)
        z, z_adv = clean_and_adversarial_logits(model, x, x_adv, forwards)
        clean = teacher_loss(z, teacher_logits(teacher, x), 1.0)
        return alpha * teacher_loss(z_adv, target_adv, 1.0) + (1 - alpha) * clean

    return loss


class SideBySide(nn.Module):
    """Two networks as one: the logits of both, one after the other.

    Args:
        student: a network.
        teacher: a network with as many classes.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, 2 K)``."""
        return torch.cat([query_model(self.student, x), query_model(self.teacher, x)], dim=1)


def disagreement(both: Tensor, y: Tensor) -> Tensor:
    """Return ``KL(teacher || student)`` of logits that `SideBySide` returned.

    Args:
        both: ``(B, 2 K)``.
        y: not used.

    Returns:
        Divergences ``(B,)``.
    """
    z, z_teacher = both.chunk(2, dim=1)
    return divergence(z_teacher, z)

"""Knowledge distillation on attacked inputs, from labels and teachers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from advreg import models
from advreg.attacks.model import query_model, widen
from advreg.errors import ConfigError, ModelError
from advreg.module_modes import eval_mode
from advreg.threat import ThreatModel
from advreg.training.recipes.base import (
    Attack,
    Recipe,
    Smoothing,
    Weight,
    check_loss,
    divergence,
    label_loss,
    worst_case,
)

Teacher = str | Callable[..., Tensor]
"""A network, or a name or run folder for `advreg.load_model`; ``""`` for none."""


@check_loss
def distill(
    robust: Teacher = "",
    standard: Teacher = "",
    hard: Weight = 0.3,
    robust_weight: Weight = 0.6,
    standard_weight: Weight = 0.1,
    temperature: Annotated[float, Field(gt=0)] = 2.0,
    label_smoothing: Smoothing = 0.0,
) -> Recipe:
    """Learn from teachers: ``hard CE(f(x_adv), y) + sum_t weight_t T^2 KL(softmax(t(x_adv) / T) || softmax(f(x_adv) / T))``.

    A teacher that is not given has no term. The attack is on the student alone.

    Args:
        robust: a teacher trained on attacked inputs, such as the same network from an earlier run.
        standard: a teacher trained on clean inputs.
        hard: weight of the labels.
        robust_weight: weight of the robust teacher.
        standard_weight: weight of the standard teacher.
        temperature: ``T``, by which logits are divided: the larger, the more a teacher's small probabilities count.
        label_smoothing: share of each label that is spread evenly over all classes.

    Returns:
        The recipe.

    Raises:
        ConfigError: no teacher.
        ModelError, WeightsError: a teacher that cannot be loaded, or, when called, one of another number of classes.

    Example:
        >>> import advreg
        >>> teacher, model = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> recipe = distill(robust=teacher, hard=0.4)
        >>> recipe(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: Chen et al., "Robust overfitting may be mitigated by properly learned smoothening", ICLR 2021.
    """
    given = [(robust, robust_weight), (standard, standard_weight)]
    teachers = [(_network(teacher), weight) for teacher, weight in given if teacher != ""]
    if not teachers:
        raise ConfigError("distill has no teacher; give robust or standard, a run folder or a network")

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        x_adv = worst_case(model, x, y, attack, threat)
        z = query_model(model, x_adv)
        distilled = [
            weight * teacher_loss(z, teacher_logits(teacher, x_adv), temperature) for teacher, weight in teachers
        ]
        return hard * label_loss(z, y, label_smoothing) + torch.stack(distilled).sum()

    return loss


def teacher_loss(z: Tensor, z_teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Return ``T^2 KL(softmax(z_teacher / T) || softmax(z / T))``, the batch's mean; gradients keep their size as T grows.

    Args:
        z: the student's logits ``(B, K)``.
        z_teacher: the teacher's logits ``(B, K)``.
        temperature: ``T``, above 0.

    Returns:
        A scalar.

    Raises:
        ModelError: a teacher of another number of classes.

    Example:
        >>> z = torch.tensor([[1.0, 2.0]])
        >>> teacher_loss(z, z).item()
        0.0

    Reference: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, arXiv:1503.02531.
    """
    if z_teacher.shape != z.shape:
        raise ModelError(
            f"a teacher has {z_teacher.shape[1]} classes, the network has {z.shape[1]}; give a teacher of the same classes"
        )
    return temperature**2 * divergence(widen(z_teacher) / temperature, widen(z) / temperature).mean()


def teacher_logits(teacher: nn.Module, x: Tensor) -> Tensor:
    """Return a teacher's logits in eval mode, without gradient; it follows the inputs to their device.

    Args:
        teacher: the teacher; moved to the device of ``x``.
        x: inputs ``(B, ...)``.

    Returns:
        Logits ``(B, K)``.
    """
    with eval_mode(teacher.to(x.device)), torch.no_grad():
        return query_model(teacher, x)


def load_teacher(recipe: str, teacher: Teacher) -> nn.Module:
    """Return the network of a teacher.

    Args:
        recipe: name of the recipe, for the error message.
        teacher: a network, or a name or run folder for `advreg.load_model`.

    Raises:
        ConfigError: no teacher, or no network.
        ModelError, WeightsError: it cannot be loaded.
    """
    if teacher == "":
        raise ConfigError(f"{recipe} has no teacher; give robust (recipe.options.robust), a run folder or a network")
    return _network(teacher)


def _network(teacher: Teacher) -> nn.Module:
    if isinstance(teacher, str):
        return models.load(teacher)
    if not isinstance(teacher, nn.Module):
        raise ConfigError(
            f"a teacher is {type(teacher).__name__}; give a network (nn.Module), or a text such as runs/robust"
        )
    return teacher

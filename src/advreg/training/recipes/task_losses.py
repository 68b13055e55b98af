"""The losses of recipes in any task: of outputs and targets, and what the attack maximises."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from pydantic import InstanceOf
from torch import Tensor

from advreg.errors import ConfigError
from advreg.objectives import Objective, cross_entropy
from advreg.tasks import CLASSES, Task, as_task
from advreg.training.recipes.base import label_loss

TaskOption = InstanceOf[Task] | str
"""A task, or its name with options, such as ``"pixels"`` or ``"number:tolerance=0.5"``."""


def loss_of(task: TaskOption, label_smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of a batch, ``(outputs, targets) -> scalar``: the mean over examples of the task's training loss.

    Args:
        task: what an output is worth.
        label_smoothing: share of each label that is spread evenly over all classes.

    Raises:
        ConfigError: label smoothing in another task than classification.

    Example:
        >>> loss_of("number:tolerance=1")(torch.tensor([[3.0], [1.0]]), torch.tensor([1.0, 1.0])).item()
        2.0
    """
    chosen = as_task(task)
    if chosen is CLASSES:
        return functools.partial(label_loss, label_smoothing=label_smoothing)
    if label_smoothing:
        raise ConfigError(
            f"label_smoothing is {label_smoothing} and the task {chosen.name}; it is for classes: leave it out"
        )
    return lambda z, y: chosen.training_loss(z, y).mean()


def attack_objective(task: TaskOption) -> Objective:
    """Return what the attack maximises: the loss that the recipe minimises, of each example.

    Args:
        task: what an output is worth.
    """
    chosen = as_task(task)
    return cross_entropy if chosen is CLASSES else chosen.training_loss


def stability(task: TaskOption) -> Task:
    """Return the task of an attack on stability: its targets are outputs, from which the attack moves away.

    Args:
        task: the task; it must have a divergence.

    Returns:
        A task in which no example is ever broken.

    Raises:
        ConfigError: a task without a divergence.

    Example:
        >>> stability("labels").name
        'stability-of-labels'
    """
    chosen = as_task(task)
    if chosen.divergence is None:
        raise ConfigError(
            f"recipe 'trades' needs a divergence, and task {chosen.name} has none; use madry, or give one"
        )

    def never_broken(z: Tensor, _: Tensor) -> Tensor:
        return torch.ones(len(z), dtype=torch.bool, device=z.device)

    return Task(f"stability-of-{chosen.name}", never_broken, {"divergence": chosen.divergence})

"""Learning-rate schedules: functions of progress in (0, 1) that return a multiple of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from advreg._lazy import deprecated
from advreg.config.registry import Registry

Factor = Callable[[float], float]
"""Progress, 0 before the first step and 1 after the last, to a multiple of the learning rate."""

Share = Annotated[float, Field(ge=0, lt=1)]
InnerShare = Annotated[float, Field(gt=0, lt=1)]


def constant() -> Factor:
    """Keep the learning rate.

    Example:
        >>> constant()(0.5)
        1.0
    """
    return lambda progress: 1.0


def cosine(warmup: Share = 0.0) -> Factor:
    """Rise linearly during ``warmup``, then fall to zero along half a cosine.

    Args:
        warmup: share of training.

    Example:
        >>> [round(cosine(0.5)(progress), 3) for progress in (0.25, 0.5, 0.75)]
        [0.5, 1.0, 0.5]

    Reference: Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017.
    """

    def factor(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))

    return factor


def triangular(peak: InnerShare = 0.5) -> Factor:
    """Rise linearly from zero to the learning rate at ``peak``, then fall to zero (one cycle).

    Args:
        peak: share of training.

    Example:
        >>> [triangular(0.25)(progress) for progress in (0.125, 0.25, 0.625)]
        [0.5, 1.0, 0.5]
    """
    return lambda progress: min(progress / peak, (1 - progress) / (1 - peak))


def multistep(milestones: list[InnerShare] = [0.5, 0.75], gamma: InnerShare = 0.1) -> Factor:  # noqa: B006
    """Multiply by ``gamma`` at each of the ``milestones``.

    Args:
        milestones: shares of training.
        gamma: factor at each of them.

    Example:
        >>> [multistep([0.5], gamma=0.5)(progress) for progress in (0.25, 0.75)]
        [1.0, 0.5]
    """
    return lambda progress: gamma ** sum(progress >= milestone for milestone in milestones)


SCHEDULES: Registry[Factor] = Registry(
    "schedule",
    {
        "constant": constant,
        "cosine": cosine,
        "triangular": triangular,
        "multistep": multistep,
    },
)


def scheduler(optimizer: Optimizer, factor: Factor, steps: int) -> LambdaLR:
    """Return the scheduler that gives each of ``steps`` steps the factor at its middle, so that no step has rate 0.

    Args:
        optimizer: its learning rates are the largest ones.
        factor: progress to a multiple of the learning rate.
        steps: optimizer steps of the whole run.
    """
    return LambdaLR(optimizer, lambda step: factor((min(step, steps - 1) + 0.5) / steps))


if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__, {"named": "SCHEDULES.build"})

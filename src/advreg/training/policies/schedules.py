"""Policies without memory: the adversary as configured, a growing one, a friendly one."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from advreg.threat import ThreatModel
from advreg.trainer.moment import Moment
from advreg.training import inner
from advreg.training.policies.base import Policy
from advreg.training.recipes import Attack

Moments = Annotated[float, Field(gt=0, lt=1)]


def fixed() -> Policy:
    """Keep the configured attack and eps.

    Returns:
        The policy.

    Example:
        >>> threat = ThreatModel("linf", eps=0.1)
        >>> fixed()(None, None, None, None, None, threat, Moment(epoch=1, step=2, steps=10))[1] is threat
        True
    """

    def policy(
        model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, attack: Attack, threat: ThreatModel, moment: Moment
    ) -> tuple[Attack, ThreatModel]:
        return attack, threat

    return policy


def warmup(share: Moments = 0.2) -> Policy:
    """Let eps grow linearly from 0 until ``share`` of training is done, ``eps min(1, progress / share)``.

    Args:
        share: part of training after which eps is the configured one.

    Returns:
        The policy.

    Example:
        >>> policy, threat = warmup(0.5), ThreatModel("linf", eps=0.1)
        >>> policy(None, None, None, None, None, threat, Moment(epoch=1, step=2, steps=10))[1].eps
        0.05
    """

    def policy(
        model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, attack: Attack, threat: ThreatModel, moment: Moment
    ) -> tuple[Attack, ThreatModel]:
        return attack, threat.with_eps(threat.eps * min(1.0, moment.progress / share))

    return policy


def friendly(
    steps: Annotated[int, Field(ge=1)] = 10,
    step_size: Annotated[float, Field(gt=0)] | None = None,
    start: Literal["uniform", "zero"] = "uniform",
    milestones: list[Moments] = [0.4, 0.75],  # noqa: B006
) -> Policy:
    """Attack with PGD that stops at an example ``tau`` steps after it is first misclassified; ``tau`` grows from 0.

    It replaces the configured attack, which must be ``pgd`` in a run; the guard cannot strengthen it.

    Args:
        steps: gradient steps at most.
        step_size: length of a step; ``2.5 eps / steps`` if None.
        start: ``"uniform"`` or ``"zero"``.
        milestones: shares of training at each of which ``tau`` is one more.

    Returns:
        The policy; its attack is `advreg.training.inner.friendly_pgd`.

    Example:
        >>> import torch
        >>> attack, _ = friendly()(None, None, None, None, None, ThreatModel("linf", 0.1), Moment(1, 50, 100))
        >>> attack.keywords["tau"]
        1

    Reference: Zhang et al., "Attacks which do not kill training make adversarial learning stronger", ICML 2020,
    arXiv:2002.11242.
    """

    def policy(
        model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, attack: Attack, threat: ThreatModel, moment: Moment
    ) -> tuple[Attack, ThreatModel]:
        tau = sum(moment.progress >= milestone for milestone in milestones)
        return partial(inner.friendly_pgd, tau=tau, steps=steps, step_size=step_size, start=start), threat

    return policy

"""Recipes: what each training method minimises, one function a paper, for our loop or anybody's.

A recipe is made once with its options, then called on every batch: ``loss = madry()(model, x, y, attack, threat)``. The
caller does the rest: ``backward``, the optimizer, the schedule. Where a recipe looks at clean and attacked inputs in one
forward, the attacked ones come last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.objectives import Objective, cross_entropy
from advreg.threat import ThreatModel
from advreg.training.choose import choose
from advreg.training.modes import eval_mode


class Found(Protocol):
    """What an attack returns, as far as a recipe looks."""

    @property
    def x_adv(self) -> Tensor:
        """The attacked inputs ``(B, ...)``."""
        ...


Attack = Callable[..., Found]
"""``(model, x, y, threat, *, objective, seed) -> result`` with ``x_adv``: any attack, its other options bound."""

Recipe = Callable[[nn.Module, Tensor, Tensor, Attack, ThreatModel], Tensor]
"""``(model, x, y, attack, threat) -> loss``, a scalar to call ``backward`` on."""

Smoothing = Annotated[float, Field(ge=0, lt=1)]


def standard(label_smoothing: Smoothing = 0.0) -> Recipe:
    """Minimise the cross-entropy on clean inputs: no defence, the baseline of every table.

    Args:
        label_smoothing: share of each label that is spread evenly over all classes.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        return F.cross_entropy(model(x), y, label_smoothing=label_smoothing)

    return loss


def madry(label_smoothing: Smoothing = 0.0) -> Recipe:
    """Minimise the cross-entropy at the worst point found: ``min_w E max_delta CE(f(x + delta), y)``.

    Args:
        label_smoothing: share of each label that is spread evenly over all classes.

    Example:
        >>> from functools import partial
        >>> import advreg
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
        >>> threat = ThreatModel("linf", eps=0.1)
        >>> madry()(model, x, y, partial(advreg.pgd, steps=3), threat).backward()

    Reference: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        x_adv = worst_case(model, x, y, attack, threat)
        return F.cross_entropy(model(x_adv), y, label_smoothing=label_smoothing)

    return loss


def worst_case(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    threat: ThreatModel,
    objective: Objective = cross_entropy,
) -> Tensor:
    """Return the attacked inputs, found with the model in eval mode; weights, their gradients and modes are untouched.

    The attack's seed is drawn from torch's generator: a new random start at every step, the same in a repeated run.
    """
    seed = int(torch.randint(2**31, ()))
    with eval_mode(model):
        return attack(model, x, y, threat, objective=objective, seed=seed).x_adv.detach()


RECIPES: dict[str, Callable[..., Recipe]] = {"standard": standard, "madry": madry}


def named(name: str, options: Mapping[str, Any]) -> Recipe:
    """Return the recipe of this name with these options, as a configuration gives them.

    Raises:
        ConfigError: an unknown recipe or option, or an option that is not allowed.
    """
    return choose("recipe", RECIPES, name, options)

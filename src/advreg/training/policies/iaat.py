"""Instance-adaptive eps: the radius of each example follows the model's robustness at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from advreg.attacks.inputs import read_training
from advreg.attacks.model import query_model
from advreg.attacks.search import QuerySpec, query
from advreg.module_modes import eval_mode
from advreg.objectives import correct, margin
from advreg.threat import ThreatModel
from advreg.trainer.moment import Moment
from advreg.training.per_example_state import PerExampleTable, Saved
from advreg.training.policies.base import Policy, within
from advreg.training.recipes import Attack, bind_ids, worst_case

Positive = Annotated[float, Field(gt=0)]
RobustAt = Callable[[Tensor, Tensor], Tensor]
"""``(rows (R,), eps (R,)) -> bool (R,)``: whether the model is correct on these rows of the batch inside these radii."""


def iaat(
    gain: Positive = 0.2375,
    smoothing: Annotated[float, Field(gt=0, le=1)] = 0.1,
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    most: Positive = 2.0,
    method: Literal["test", "margin"] = "test",
    *,
    start: Positive = 1.0,
    examples: Annotated[int, Field(ge=0)] = 0,
) -> Policy:
    """Adapt the radius of each example: larger while the model is robust there, smaller when it is not.

    With ``g = gain eps``: the aim is ``eps_i + g`` if the model is robust at that radius, else ``eps_i`` if it is robust at
    that, else ``eps_i - g``; then ``eps_i <- (1 - smoothing) eps_i + smoothing aim``.

    Args:
        gain: step of the aim, in eps; 1.9/255 at 8/255 in the paper.
        smoothing: share of the aim in the new radius.
        warmup: share of training before any radius adapts, in which the eps of all grows from 0 to ``start``: at a large eps, a
            network that meets the whole radius in its first steps does not begin to learn. The paper keeps eps constant.
        most: largest radius, in eps.
        method: ``"test"`` runs the attack of the run twice more; it must have no per-example state. ``"margin"`` compares with
            the first-order distance to the decision boundary, the margin over the dual norm of its gradient, at one forward
            and one backward.
        start: radius of every example when adaptation begins, in eps.
        examples: number of examples; 0 to grow with the ids.

    Returns:
        The policy; its ``state_dict`` holds the radii by example id.

    Example:
        >>> policy, model = iaat(warmup=0.0, method="margin"), nn.Linear(4, 3)
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> batch = (model, x, y, torch.arange(2))
        >>> policy(*batch, None, ThreatModel("linf", 0.1), Moment(1, 0, 10))[1].eps.shape
        torch.Size([2])

    Reference: Balaji, Goldstein, Hoffman, "Instance adaptive adversarial training: improved accuracy tradeoffs in neural
    nets", 2019, arXiv:1910.08051.
    """
    adaptation = Adaptation(gain, smoothing, most, method)
    return InstanceAdaptivePolicy(adaptation, warmup, start, examples)


@dataclass(frozen=True)
class Adaptation:
    """How radii adapt, in eps: options of `iaat` of the same names."""

    gain: float
    smoothing: float
    most: float
    method: str


class InstanceAdaptivePolicy:
    """The policy that `iaat` makes; its memory is each example's radius, in eps."""

    def __init__(self, how: Adaptation, warmup: float, start: float, examples: int) -> None:
        self.how, self.warmup, self.start = how, warmup, start
        self.radii = PerExampleTable(examples, fill=start)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, attack: Attack, threat: ThreatModel, moment: Moment
    ) -> tuple[Attack, ThreatModel]:
        """Return the attack as it is, and the threat model with each example's eps, moved by a test on this batch."""
        x, y = read_training(x, y, threat)
        unit = torch.as_tensor(threat.eps, dtype=torch.float32, device=x.device).expand(len(x))
        if moment.progress < self.warmup:
            return attack, threat.with_eps(within(threat, self.start * moment.progress / self.warmup * unit))
        how = self.how
        robust_at = _near(model, x, y, threat) if how.method == "margin" else _tested(model, x, y, ids, attack, threat)

        def holds(rows: Tensor, radii: Tensor) -> Tensor:
            return robust_at(rows, within(threat, radii * unit[rows]))

        radii = adapt_radii(self.radii.read(ids), holds, how.gain, how.smoothing).clamp(0, how.most)
        self.radii.write(ids, radii)
        return attack, threat.with_eps(within(threat, radii * unit))

    def share(self) -> None:
        """Synchronise the radii over all ranks."""
        self.radii.share()

    def state_dict(self) -> Saved:
        """Return the radii by example id, in eps."""
        return {"radii": self.radii.values}

    def load_state_dict(self, state: Saved) -> None:
        """Restore a state that `state_dict` returned."""
        self.radii.load(state["radii"])


def adapt_radii(radii: Tensor, robust_at: RobustAt, gain: float, smoothing: float) -> Tensor:
    """Return the radii one step closer to the largest robust ones.

    The current radius is tested only where the larger one fails.

    Args:
        radii: current radii ``(B,)``.
        robust_at: ``(rows, radii) -> (R,)``, whether the model is robust at these radii.
        gain: step of the aim.
        smoothing: share of the aim in the new radii.

    Returns:
        Radii ``(B,)``, 0 or more.

    Example:
        >>> strength = torch.tensor([9.0, 1.1, 0.5])
        >>> adapt_radii(torch.ones(3), lambda rows, radii: radii <= strength[rows], gain=0.2, smoothing=0.5).tolist()
        [1.100000023841858, 1.0, 0.8999999761581421]
    """
    rows = torch.arange(len(radii), device=radii.device)
    more = robust_at(rows, radii + gain)
    aim = torch.where(more, radii + gain, radii)
    doubtful = rows[~more]
    if len(doubtful):
        weak = doubtful[~robust_at(doubtful, radii[doubtful])]
        aim[weak] = (radii[weak] - gain).clamp_min(0)
    return (1 - smoothing) * radii + smoothing * aim


def _tested(model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, attack: Attack, threat: ThreatModel) -> RobustAt:
    def robust_at(rows: Tensor, eps: Tensor) -> Tensor:
        bound = bind_ids(attack, ids[rows])
        x_adv = worst_case(model, x[rows], y[rows], bound, threat.with_eps(eps))
        with eval_mode(model):  # not under no_grad: torch < 2.10's autocast caches that
            return correct(query_model(model, x_adv).detach(), y[rows])

    return robust_at


def _near(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> RobustAt:
    with eval_mode(model):
        _, gap, grad = query(QuerySpec(model, margin), x, y)
    slope = (grad * threat.steepest(grad)).flatten(1).sum(1)
    distance = -gap / slope.clamp_min(1e-30)
    return lambda rows, eps: distance[rows] > eps

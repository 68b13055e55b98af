"""Stages before an attack in balls wider than eps, which give the last stage a better start."""

from __future__ import annotations

import math

from torch import Tensor

from advreg.attacks.search import QuerySpec, Rule, initial_state, update_state
from advreg.threat import ThreatModel

STAGE = 30
"""Percent of the steps spent in each stage before the last."""


def wider(threat: ThreatModel, multiple: float) -> ThreatModel:
    """Return the threat model with a multiple of its eps; in linf never wider than the box.

    Args:
        threat: the threat model.
        multiple: factor of eps.

    Returns:
        A threat model of the same norm and box.

    Example:
        >>> wider(ThreatModel("linf", 0.25), 2.0).eps, wider(ThreatModel("linf", 0.25), 16.0).eps
        (0.5, 1.0)
    """
    most = threat.width if threat.norm == "linf" and threat.scale is None else math.inf
    if isinstance(threat.eps, Tensor):
        return threat.with_eps((threat.eps.double() * multiple).clamp_max(most))
    return threat.with_eps(min(threat.eps * multiple, most))


def find_peak(
    spec: QuerySpec, x: Tensor, y: Tensor, threat: ThreatModel, point: Tensor, *, steps: int, rule: Rule
) -> Tensor:
    """Return the point of highest loss among ``steps`` queries in a threat model, not verified, ``(B, ...)``.

    Args:
        spec: model and objective.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)``.
        threat: the threat model of this stage.
        point: first iterate, projected first ``(B, ...)``.
        steps: number of queries.
        rule: step rule that keeps the point of highest loss, as those of Auto-PGD do.

    Returns:
        Points ``(B, ...)`` inside the threat model.

    Example:
        >>> import torch
        >>> from advreg.attacks.auto_pgd.l1 import sparse_rule
        >>> from advreg.objectives import cross_entropy
        >>> model, x, y = torch.nn.Linear(4, 3).eval(), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> threat, rule = ThreatModel("l1", 0.1), sparse_rule(3, warm=True)
        >>> peak = find_peak(QuerySpec(model, cross_entropy), x, y, threat, x, steps=3, rule=rule)
        >>> bool(threat.contains(peak, x, 1e-6).all())
        True
    """
    state = initial_state(x, y, threat, threat.project(point, x))
    for k in range(steps):
        state = rule(update_state(spec.at(k / steps), state, gradient=True), k)
    return state.memory.get("peak", point)

"""Coarseness of a service's scores: an attack cannot rank its points by scores that are rounded to few values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks.verification import outputs_of
from advreg.results.checks import Check, flag_check, skip_check
from advreg.threat import ThreatModel

UNCHANGED = 0.05
"""Share of examples with the same scores at a random point nearby above which scores are coarse."""

DISTINCT = 0.25
"""Share of distinct numbers among the scores below which scores are coarse."""

_FEW = 40  # number of scores below which distinct numbers are not counted


@dataclass(frozen=True)
class Coarseness:
    """Coarseness of a few outputs.

    Attributes:
        unchanged: share of examples whose scores are equal, to the last bit, at a random point of the threat model.
        distinct: distinct numbers among the scores of the clean examples, as a share of all of them.
        forwards: example-forwards spent.
    """

    unchanged: float
    distinct: float
    forwards: int


def measure_coarseness(model: nn.Module, x: Tensor, threat: ThreatModel, seed: int) -> Coarseness | None:
    """Measure the coarseness of a model without gradients, with two forwards an example; None for any other model.

    Args:
        model: the original.
        x: clean inputs ``(B, ...)``.
        threat: threat model in which a second point is drawn for each example.
        seed: seed of the draw.

    Returns:
        The measurement; None for a model that has gradients, and for eps 0.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> model.score_only = True
        >>> measure_coarseness(model, torch.rand(2, 4), ThreatModel("linf", 0.1), seed=0).forwards
        4
    """
    if not getattr(model, "score_only", False) or not float(threat.eps):
        return None
    nearby = threat.random_start(x, torch.arange(len(x)), seed)
    here, there = (outputs_of(model, points)[:, None].flatten(1) for points in (x, nearby))
    unchanged = float((here == there).all(1).double().mean())
    distinct = len(torch.unique(here)) / here.numel() if here.numel() >= _FEW else 1.0
    return Coarseness(unchanged, distinct, 2 * len(x))


def record_coarseness(found: Coarseness | None) -> dict[str, float | bool]:
    """Return the flags of a result; none for a model with gradients.

    Args:
        found: the measurement of `measure_coarseness`.

    Returns:
        Flags by name.
    """
    if found is None:
        return {}
    return {
        "coarse_answers": found.unchanged > UNCHANGED or found.distinct < DISTINCT,
        "unchanged_answers": found.unchanged,
        "distinct_answers": found.distinct,
    }


def check_coarseness(flags: Mapping[str, Any], protocol: str) -> Check:
    """Check whether scores are fine enough for attacks that compare them; attacks on labels need none.

    Args:
        flags: flags of an evaluation.
        protocol: id of the protocol.

    Returns:
        The check; skipped for a model with gradients.
    """
    if "coarse_answers" not in flags:
        return skip_check("coarse-answers", "C", "the model gives gradients")
    by_labels = "-labels@" in protocol
    unchanged, distinct = flags["unchanged_answers"], flags["distinct_answers"]
    says = (
        f"{unchanged:.0%} of the outputs do not change at a random point within eps, "
        f"{distinct:.0%} of the scores are distinct{', and the attack needs labels only' if by_labels else ''}"
    )
    raised = bool(flags["coarse_answers"]) and not by_labels
    return flag_check("coarse-answers", "C", "coarse answers", says, raised=raised, hard=False)

"""Challenges: other attacks on the examples that the figure counts as robust, nearest to the boundary first.

All attacks share one sample: each tries the survivors of those before it. An attack that breaks none of the nearer half skips
the other half. An attack that breaks a fifth of the sample goes on to as many examples behind it, until the check surely fails.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advreg.diagnosis.context import Attack, DiagnosisContext, run_on
from advreg.results.checks import GAIN, GAP, Check, grade_gain
from advreg.results.ledger_order import CONTINUE_SHARE
from advreg.statistics import clopper_pearson_interval


def challenge_figure(
    context: DiagnosisContext,
    attack: Attack,
    name: str,
    group: str,
    by: str,
    *,
    cause: str = "weak attack",
    first: int | None = None,
    threshold: float = GAIN,
) -> Check:
    """Run another attack on the survivors, and grade the share that it breaks.

    Args:
        context: model, examples and figure.
        attack: the other attack.
        name: name of the check.
        group: group of the check, A to G.
        by: the other attack, in words.
        cause: cause of a failure, one of `advreg.results.checks.CAUSES`.
        first: number of examples to begin with, few for an expensive attack; it goes on where it breaks a fifth. None: half
            of the sample, and the other half where it breaks any.
        threshold: share beyond which the figure is suspect.

    Returns:
        The graded check.

    Example:
        >>> import torch
        >>> from advreg import attacks
        >>> from advreg.diagnosis.diagnose import make_context
        >>> from advreg.threat import ThreatModel
        >>> model, x = torch.nn.Linear(4, 3).eval(), torch.rand(4, 4)
        >>> context, _ = make_context(model, (x, model(x).argmax(1)), ThreatModel("linf", 1e-6), 4, quick=True)
        >>> challenge_figure(context, attacks.fgsm, "one step", "A", "FGSM").verdict
        'pass'
    """
    tried, broken = _attack_nearest(context, attack, first)
    context.survivors.remove(broken)
    return grade_gain(
        name,
        group,
        cause,
        by,
        broken=sorted(context.ids[broken].tolist()),
        tried=tried,
        survivors=len(context.robust_rows),
        total=context.n,
        threshold=threshold,
    )


def _attack_nearest(context: DiagnosisContext, attack: Attack, first: int | None) -> tuple[int, Tensor]:
    """Return the number of examples that an attack tried, and the rows that it broke."""
    left = context.survivors.sample
    rows = left[: first or math.ceil(len(left) / 2)]
    tried, broken = 0, left[:0]
    while len(rows):
        broken = torch.cat([broken, rows[run_on(context, attack, rows)]])
        tried += len(rows)
        enough = CONTINUE_SHARE * tried if first or tried >= len(left) else 1
        if len(broken) < enough or is_certain_failure(len(broken), context.n):
            break
        waiting = left[tried : 2 * tried]
        rows = waiting if len(waiting) else context.survivors.extend(tried)
    return tried, broken


def is_certain_failure(broken: int, total: int) -> bool:
    """Return whether this number of broken examples is a failure, whatever the other examples do.

    Args:
        broken: number of broken examples so far.
        total: number of examples in the figure.

    Returns:
        True where the lower end of the exact interval is above the limit.

    Example:
        >>> is_certain_failure(19, 200), is_certain_failure(20, 200)
        (False, True)
    """
    return clopper_pearson_interval(broken, total)[0] > GAP

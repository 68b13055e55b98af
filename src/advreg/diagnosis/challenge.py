"""Challenges: attacks that a figure's own should not lose to, tried on what it counts as robust, nearest to the boundary first.

All challengers share one sample of survivors, as the attacks of an evaluation do: each tries what those before it left. A
challenger that breaks none of the nearer half leaves the other half alone; one that breaks a fifth of the sample goes on to as
many examples behind it, until a failure is certain.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advreg.diagnosis.context import Attack, DiagnosisContext, run_on
from advreg.results.checks import GAIN, GAP, Check, grade_gain
from advreg.results.ledger_rows import CONTINUE_SHARE
from advreg.statistics import clopper_pearson_interval


def challenge_figure(
    subject: DiagnosisContext,
    attack: Attack,
    name: str,
    group: str,
    by: str,
    *,
    cause: str = "weak attack",
    first: int | None = None,
    threshold: float = GAIN,
) -> Check:
    """Try another attack on the survivors, and grade what it breaks.

    Args:
        subject: model, examples and figure.
        attack: the challenger.
        name: name of the check.
        group: group of the check, A to G.
        by: the challenger, in words.
        cause: what a failure points to, one of `advreg.results.checks.CAUSES`.
        first: examples to begin with, for an expensive attack few; it goes on where it breaks a fifth. If None, half of the
            sample, and the other half where it breaks any.
        threshold: share beyond which the figure is suspect.

    Returns:
        The graded check.

    Example:
        >>> import torch
        >>> from advreg import attacks
        >>> from advreg.diagnosis.diagnose import context_of
        >>> from advreg.threat import ThreatModel
        >>> model, x = torch.nn.Linear(4, 3).eval(), torch.rand(4, 4)
        >>> subject, _ = context_of(model, (x, model(x).argmax(1)), ThreatModel("linf", 1e-6), 4, None, True, None, 0, None)
        >>> challenge_figure(subject, attacks.fgsm, "one step", "A", "FGSM").verdict
        'pass'
    """
    tried, broken = _attack_nearest(subject, attack, first)
    subject.survivors.remove(broken)
    return grade_gain(
        name, group, cause, by, broken=sorted(subject.ids[broken].tolist()), tried=tried,
        standing=len(subject.standing), total=subject.n, threshold=threshold,
    )  # fmt: skip


def _attack_nearest(subject: DiagnosisContext, attack: Attack, first: int | None) -> tuple[int, Tensor]:
    """Return how many examples an attack tried, and the rows that it broke."""
    left = subject.survivors.sample
    rows, tried, broken = left[: first or math.ceil(len(left) / 2)], 0, left[:0]
    while len(rows):
        broken = torch.cat([broken, rows[run_on(subject, attack, rows)]])
        tried += len(rows)
        enough = CONTINUE_SHARE * tried if first or tried >= len(left) else 1
        if len(broken) < enough or is_certain_failure(len(broken), subject.n):
            break
        waiting = left[tried : 2 * tried]
        rows = waiting if len(waiting) else subject.survivors.extend(tried)
    return tried, broken


def is_certain_failure(broken: int, total: int) -> bool:
    """Return whether so many broken examples are a failure already, whatever the others do.

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

"""D. Indicators of attack failure: the attack failed although adversarial points may exist.

Reference: Pintor et al., "Indicators of attack failure", NeurIPS 2022, arXiv:2106.09947.
"""

from __future__ import annotations

import torch
from torch import Tensor

from advreg import example_rng
from advreg.attacks.model import query_model
from advreg.diagnosis.autograd_inspection import flat_operations
from advreg.diagnosis.budget import CHEAP
from advreg.diagnosis.context import PGD_40, DiagnosisContext, gradients, margins, needs_certainty, needs_gradient
from advreg.diagnosis.pgd_trace import late_gain
from advreg.models import freeze
from advreg.objectives import cross_entropy
from advreg.results.checks import DISAGREEMENT, DISAGREEMENT_LIMIT, Check, flag_check, grade_check, skip_check
from advreg.statistics import clopper_pearson_interval

_RADIUS = 4 / 255  # of the width of the box
_NOTHING = "no example is classified correctly"
_LAST = 10  # last steps of a trace, which should gain little
_UNFINISHED = (
    0.1  # share of the margin gained: PGD-40 measures 1 to 6% on honest networks, 15 to 25% if steps are too short
)


def gradient_path(context: DiagnosisContext) -> Check:
    """I1, first half: check whether a gradient reaches the input."""
    says = context.no_gradient or "gradients reach the input"
    raised = bool(context.no_gradient) and bool(len(context.probes()))
    return flag_check("gradient-path", "D", "no gradient path", says, raised=raised)


def zero_gradients(context: DiagnosisContext) -> Check:
    """I1, second half: measure on how many robust examples the gradient of the loss is exactly zero."""
    if absent := needs_gradient(context, "zero-gradients", "D"):
        return absent
    rows = context.robust_rows[:CHEAP]
    count = count_zero_gradients(context, rows) if len(rows) else 0
    share = count / max(len(rows), 1)
    ends = clopper_pearson_interval(count, len(rows)) if len(rows) else None
    flat = flat_operations(context.model, context.x[:2]) if count else []
    cause = "shattered gradients" if flat else "saturated"
    why = f" ({', '.join(flat)} in the model)" if flat else ""
    says = f"on {count} of {len(rows)} robust examples the gradient of the cross-entropy is exactly zero{why}"
    return grade_check("zero-gradients", "D", cause, says, measured=share, threshold=0.0, limit=0.05, ends=ends)


def count_zero_gradients(context: DiagnosisContext, rows: Tensor) -> int:
    """Return how many of these examples have a gradient of exactly zero."""
    found = gradients(context.model, context.x[rows], context.y[rows], cross_entropy).flatten(1)
    return int((found == 0).all(1).sum())


def noisy_landscape(context: DiagnosisContext) -> Check:
    """I2: measure the relative change of the loss between an example and random points within 4/255 of the box."""
    rows = context.probes()
    if not len(rows):
        return skip_check("noisy-landscape", "D", _NOTHING)
    if context.threat.limits is not None:
        return skip_check("noisy-landscape", "D", "its distances are in units of the box, not of single features")
    measured = float(roughness(context, rows, 100 if context.budget.thorough else 25).mean())
    radius = _RADIUS * context.threat.width
    says = f"from a point to random neighbours within {radius:.2g} the margin changes by {measured:.1%} of itself"
    cause = "random" if context.is_random else "masked gradients"
    return grade_check("noisy-landscape", "D", cause, says, measured=measured, threshold=0.1)


def roughness(context: DiagnosisContext, rows: Tensor, neighbours: int) -> Tensor:
    """Return the mean relative change of the margin around each clean point ``(R,)``, capped at 1.

    Args:
        context: model, examples and figure.
        rows: rows to measure ``(R,)``.
        neighbours: number of random points around each.
    """
    x, y = context.x[rows], context.y[rows]
    ids = context.ids[rows]
    here = margins(context.model, x, y)
    (low, high), radius = context.threat.box, _RADIUS * context.threat.width
    total = torch.zeros_like(here)
    for k in range(neighbours):
        shift = (2 * example_rng.uniform(ids, tuple(x.shape[1:]), context.seed, 7000 + k, x.dtype) - 1) * radius
        there = margins(context.model, (x + shift).clamp(low, high), y)
        total += ((there - here).abs() / here.abs().clamp_min(1e-12)).clamp_max(1.0)
    return total / neighbours


def silent_success(context: DiagnosisContext) -> Check:
    """I3: measure how often an iterate fools the model and the returned point does not."""
    if absent := needs_gradient(context, "silent-success", "D"):
        return absent
    silent = context.trace.fooled.any(0) & ~context.trace.result.broken
    count, n = int(silent.sum()), len(silent)
    cause = "random" if context.is_random else "weak attack"
    says = f"on {count} of {n} examples an iterate fools the model and the returned point does not"
    share, ends = count / n, clopper_pearson_interval(count, n)
    return grade_check("silent-success", "D", cause, says, measured=share, threshold=0.01, limit=0.2, ends=ends)


def incomplete(context: DiagnosisContext) -> Check:
    """I4: measure the share of the margin gained that the last 10 of 40 steps gain."""
    if absent := needs_gradient(context, "incomplete", "D"):
        return absent
    if context.claim != PGD_40:
        return skip_check("incomplete", "D", "the figure is not that of PGD-40: see steps")
    measured = late_gain(context.trace, _LAST)
    says = f"the last {_LAST} of 40 steps gain {measured:.1%} of the margin gained on the survivors"
    return grade_check("incomplete", "D", "weak attack", says, measured=measured, threshold=_UNFINISHED)


def copies(context: DiagnosisContext) -> Check:
    """I5: check whether the fast copy that attacks query and the original agree on clean and attacked points."""
    if absent := needs_certainty(context, "copies", "D"):
        return absent
    rows = context.probes()
    if not len(rows):
        return skip_check("copies", "D", _NOTHING)
    points = [context.x[rows]] + ([] if context.no_gradient else [context.trace.result.x_adv])
    fast = freeze(context.model, context.x[rows], precision=context.precision)  # type: ignore[arg-type]
    if fast.net is context.model:  # no copy can be made of a TorchScript or exported program
        return skip_check("copies", "D", "no copy of this model can be made: attacks query the model itself")
    with torch.no_grad():
        differ = sum(
            int((query_model(fast, a).argmax(1) != query_model(context.model, a).argmax(1)).sum()) for a in points
        )
    n = len(points) * len(rows)
    says = f"the copy that attacks query ({fast.choice}) and the original disagree on {differ} of {n} points"
    share, ends = differ / n, clopper_pearson_interval(differ, n)
    return grade_check(
        "copies", "D", "fast copy", says, measured=share, threshold=DISAGREEMENT, limit=DISAGREEMENT_LIMIT, ends=ends
    )

"""G. Training: networks that learned to mislead the attack of their training.

Reference: Wong, Rice, Kolter, "Fast is better than free: revisiting adversarial training", ICLR 2020, arXiv:2001.03994;
Kim, Lee, Lee, "Understanding catastrophic overfitting in single-step adversarial training", AAAI 2021, arXiv:2010.01799;
Kurakin, Goodfellow, Bengio, "Adversarial machine learning at scale", ICLR 2017, arXiv:1611.01236, for label leaking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from advreg.attacks.verification import logits_of
from advreg.diagnosis.budget import CHEAP
from advreg.diagnosis.context import DiagnosisContext, gradients, needs_certainty, needs_gradient
from advreg.objectives import cross_entropy
from advreg.results.checks import Check, grade_check, skip_check
from advreg.statistics import clopper_pearson_interval, mcnemar

_SHARES = (0.25, 0.5, 0.75, 1.0)
_SURE = 0.01
_DROP = 0.2  # of robust accuracy from one epoch to the next


def correct_along_step(context: DiagnosisContext, rows: Tensor) -> Tensor:
    """Return which examples are right after a quarter, half, three quarters and all of one step, ``(4, R)``."""
    x, y = context.x[rows], context.y[rows]
    threat = context.threat
    direction = threat.steepest(gradients(context.model, x, y, cross_entropy), x)
    points = [threat.project(x + share * threat.radii(x) * direction, x) for share in _SHARES]
    return torch.stack([logits_of(context.model, point).argmax(1) == y for point in points])


def collapse(context: DiagnosisContext) -> Check:
    """Measure how often an example survives one whole step although a part of the same step breaks it.

    On an honest network the loss rises along its gradient. After catastrophic overfitting a network is right at the end of a
    single step only, and wrong along it.
    """
    if absent := needs_gradient(context, "collapse", "G") or needs_certainty(context, "collapse", "G"):
        return absent
    rows = torch.arange(min(context.n, CHEAP), device=context.x.device)
    right = correct_along_step(context, rows)
    bent = right[-1] & ~(context.right[rows] & right[:-1].all(0))
    count, n = int(bent.sum()), len(rows)
    says = f"{count} of {n} examples are right after one whole step and wrong after a part of it, or after none"
    share, ends = count / n, clopper_pearson_interval(count, n)
    return grade_check(
        "collapse", "G", "overfitted to one step", says, measured=share, threshold=0.02, limit=0.2, ends=ends
    )


def label_leaking(context: DiagnosisContext) -> Check:
    """Check whether accuracy is higher after one step of the attack than on clean examples."""
    if absent := needs_gradient(context, "label-leaking", "G") or needs_certainty(context, "label-leaking", "G"):
        return absent
    rows = torch.arange(min(context.n, CHEAP))
    attacked, right = correct_along_step(context, rows)[-1], context.right[rows]
    helped, hurt = int((attacked & ~right).sum()), int((right & ~attacked).sum())
    excess = max(helped - hurt, 0) / len(rows)
    sure = mcnemar(helped, hurt, "greater") < _SURE
    says = f"one step corrects {helped} examples and breaks {hurt}"
    return grade_check(
        "label-leaking", "G", "overfitted to one step", says, measured=excess if sure else 0.0, threshold=0.0
    )


def training_history(epochs: Sequence[Mapping[str, Any]]) -> Check:
    """Check whether robust accuracy fell within one epoch while accuracy under the training attack did not.

    Args:
        epochs: lines of a run's ``metrics.jsonl``.
    """
    known = [e for e in epochs if e.get("robust_accuracy") is not None and e.get("train_accuracy") is not None]
    if len(known) < 2:
        return skip_check("training-history", "G", "no run folder with two epochs of robust validation")
    pairs = list(pairwise(known))
    fall = max(a["robust_accuracy"] - b["robust_accuracy"] for a, b in pairs)
    last = known[-1]
    gap = last["train_accuracy"] - last["robust_accuracy"]
    says = f"robust validation accuracy fell by {max(fall, 0):.1%} at most from one epoch to the next"
    measured = fall if fall > _DROP and gap > _DROP else 0.0
    return grade_check("training-history", "G", "overfitted to one step", says, measured=measured, threshold=_DROP)

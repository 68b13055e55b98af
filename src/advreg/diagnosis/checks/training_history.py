"""G. Training-time: networks that learned to mislead the attack they were trained on.

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


def correct_along_step(subject: DiagnosisContext, rows: Tensor) -> Tensor:
    """Return which examples are right at a quarter, half, three quarters and all of one step, ``(4, R)``."""
    x, y, threat = subject.x[rows], subject.y[rows], subject.threat
    direction = threat.steepest(gradients(subject.model, x, y, cross_entropy), x)
    points = [threat.project(x + share * threat.radii(x) * direction, x) for share in _SHARES]
    return torch.stack([logits_of(subject.model, point).argmax(1) == y for point in points])


def collapse(subject: DiagnosisContext) -> Check:
    """Measure how often one whole step leaves an example standing that a part of the same step breaks.

    On an honest network the loss rises along its own gradient; one that was trained on single steps to the point of
    catastrophic overfitting has learned the end of that line, not the line.
    """
    if absent := needs_gradient(subject, "collapse", "G") or needs_certainty(subject, "collapse", "G"):
        return absent
    rows = torch.arange(min(subject.n, CHEAP), device=subject.x.device)
    stands = correct_along_step(subject, rows)
    bent = stands[-1] & ~(subject.right[rows] & stands[:-1].all(0))
    count, n = int(bent.sum()), len(rows)
    says = f"{count} of {n} examples are right after one whole step and wrong after a part of it, or after none"
    share, ends = count / n, clopper_pearson_interval(count, n)
    return grade_check(
        "collapse", "G", "overfitted to one step", says, measured=share, threshold=0.02, limit=0.2, ends=ends
    )


def label_leaking(subject: DiagnosisContext) -> Check:
    """Check whether one step of the attack makes the model right more often than no attack does."""
    if absent := needs_gradient(subject, "label-leaking", "G") or needs_certainty(subject, "label-leaking", "G"):
        return absent
    rows = torch.arange(min(subject.n, CHEAP))
    attacked, right = correct_along_step(subject, rows)[-1], subject.right[rows]
    helped, hurt = int((attacked & ~right).sum()), int((right & ~attacked).sum())
    excess = max(helped - hurt, 0) / len(rows)
    sure = mcnemar(helped, hurt, "greater") < _SURE
    says = f"one step corrects {helped} examples and breaks {hurt}"
    return grade_check(
        "label-leaking", "G", "overfitted to one step", says, measured=excess if sure else 0.0, threshold=0.0
    )  # fmt: skip


def training_history(epochs: Sequence[Mapping[str, Any]]) -> Check:
    """Check whether robust accuracy fell all at once during training while accuracy on the training attack did not.

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

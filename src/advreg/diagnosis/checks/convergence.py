"""B. Convergence and hygiene: twice the effort, other losses, other targets change nothing.

Reference: Carlini et al., "On evaluating adversarial robustness", 2019, arXiv:1902.06705.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch

from advreg import attacks
from advreg.attacks.verification import logits_of
from advreg.diagnosis.challenge import challenge_figure
from advreg.diagnosis.context import DiagnosisContext, needs_certainty, needs_gradient
from advreg.diagnosis.gradient_checks import describe_or_reraise, gradient_spread
from advreg.evaluation import learning
from advreg.evaluation.model_probe import ROUNDING, logits_in_parts
from advreg.objectives import dlr, margin
from advreg.results.checks import Check, flag_check, grade_check, skip_check

_EXAMPLES = 64
_FEW = 50

REQUIRED = ("gradient-path", "steps", "margin-loss", "black-box")
"""What no figure is trusted without: a gradient, twice the steps, another loss along it, and an attack that needs none."""

INCONCLUSIVE = "unanswered question"
"""The cause of a check that raised."""


def examples(subject: DiagnosisContext) -> Check:
    """Check whether there are enough examples for chance not to explain what a mask does to some of them."""
    says = f"{subject.n} examples"
    return flag_check("examples", "B", "few examples", says, raised=subject.n < _FEW, hard=False)


def one_class(subject: DiagnosisContext) -> Check:
    """Measure the share of the most frequent prediction on clean examples."""
    return learning.one_class(subject.y.tolist(), subject.predicted.tolist())


def chance(subject: DiagnosisContext) -> Check:
    """Compare clean accuracy with the share of the largest class, which a constant network reaches."""
    return learning.chance(subject.y.tolist(), subject.predicted.tolist())


def attacked(failed: str, checks: Iterable[Check], subject: DiagnosisContext) -> Check:
    """Check whether the figure was attacked, and that every required check ran, where any survivor is left.

    Args:
        failed: why the figure's own attack was not made; empty where it was.
        checks: all that were asked.
        subject: model, examples and figure.
    """
    if failed:
        says = f"{subject.claim} attacked nothing, so all that is right counts as robust: {failed}"
        return flag_check("attacked", "B", INCONCLUSIVE, says, raised=True)
    known = {check.name for check in checks if check.verdict != "skipped" and check.cause != INCONCLUSIVE}
    missing = [name for name in REQUIRED if name not in known] if len(subject.survivors.sample) else []
    says = f"no answer to {', '.join(missing)}" if missing else "nothing that trust needs was left out"
    return flag_check("attacked", "B", INCONCLUSIVE, says, raised=bool(missing), hard=False)


def batch(subject: DiagnosisContext) -> Check:
    """Check whether an example's answer depends on the others of its batch: then an attack on one is an attack on another."""
    if absent := needs_certainty(subject, "batch", "B"):
        return absent
    x, cause = subject.x[:_EXAMPLES], "answers of the batch"
    if len(x) < 2:
        return skip_check("batch", "B", "one example has no others in its batch")
    together = logits_of(subject.model, x)
    try:
        apart = logits_in_parts(subject.model, x)
    except Exception as error:  # it answers them together: the batch is what it lacks
        return flag_check(
            "batch",
            "B",
            cause,
            f"one example without the others gets no answer: {describe_or_reraise(error)}",
            raised=True,
        )
    measured = gradient_spread(torch.stack([together, apart]))
    says = f"{len(x)} examples at once, and in uneven parts, get answers that differ by {measured:.2g} of the largest logit"
    return grade_check("batch", "B", cause, says, measured=measured, threshold=ROUNDING, limit=ROUNDING)


def steps(subject: DiagnosisContext) -> Check:
    """Check whether twice the steps break more."""
    if absent := needs_gradient(subject, "steps", "B"):
        return absent
    count = 2 * max(subject.budget.steps, 40)
    return challenge_figure(subject, partial(attacks.pgd, steps=count), "steps", "B", f"PGD with {count} steps")


def restarts(subject: DiagnosisContext) -> Check:
    """Check whether other starting points break more."""
    if absent := needs_gradient(subject, "restarts", "B"):
        return absent
    count = 4 if subject.budget.thorough else 2
    attack = partial(attacks.pgd, steps=40, restarts=count)
    return challenge_figure(subject, attack, "restarts", "B", f"PGD-40 from {count} other starts")


def margin_loss(subject: DiagnosisContext) -> Check:
    """Check whether the margin, which does not saturate as the cross-entropy does, breaks more."""
    if absent := needs_gradient(subject, "margin-loss", "B"):
        return absent
    attack = partial(attacks.pgd, steps=40, objective=margin)
    return challenge_figure(subject, attack, "margin-loss", "B", "PGD-40 on the margin")


def ratio_loss(subject: DiagnosisContext) -> Check:
    """Check whether the difference-of-logits ratio, which no scale of the logits changes, breaks more."""
    if absent := needs_gradient(subject, "ratio-loss", "B"):
        return absent
    attack = partial(attacks.apgd, steps=subject.budget.steps, objective=dlr)
    return challenge_figure(subject, attack, "ratio-loss", "B", "Auto-PGD on DLR")


def targeted(subject: DiagnosisContext) -> Check:
    """Check whether aiming at the likeliest wrong classes one by one breaks more."""
    if absent := needs_gradient(subject, "targeted", "B"):
        return absent
    attack = partial(attacks.apgd_targeted, steps=subject.budget.steps, target_classes=3)
    return challenge_figure(subject, attack, "targeted", "B", "Auto-PGD at three wrong classes")


def noise(subject: DiagnosisContext) -> Check:
    """Check whether one random point of the ball breaks what the figure counts as robust."""
    attack = partial(attacks.random_search, queries=1)
    by = "one random point of the ball"
    return challenge_figure(subject, attack, "noise", "B", by, cause="masked gradients", threshold=0.005)


def averaging(subject: DiagnosisContext) -> Check:
    """Check whether gradients averaged over samples break more, where outputs are random."""
    if absent := needs_gradient(subject, "averaging", "B"):
        return absent
    if not subject.is_random:
        return skip_check("averaging", "B", "the model gives the same answer twice: there is nothing to average")
    attack = partial(attacks.apgd, steps=subject.budget.steps // 2, eot=10)
    return challenge_figure(subject, attack, "averaging", "B", "Auto-PGD over 10 samples", cause="random")

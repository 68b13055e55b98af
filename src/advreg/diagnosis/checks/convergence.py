"""B. Convergence: whether more steps, other losses or other target classes change the figure.

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
from advreg.diagnosis.gradient_checks import describe_or_reraise, relative_spread
from advreg.evaluation import learning
from advreg.evaluation.model_probe import ROUNDING, logits_in_parts
from advreg.objectives import dlr, margin
from advreg.results.checks import Check, flag_check, grade_check, skip_check

_EXAMPLES = 64
_FEW = 50

REQUIRED = ("gradient-path", "steps", "margin-loss", "black-box")
"""Checks that a trusted figure needs: a gradient, twice the steps, another loss, and an attack without gradients."""

INCONCLUSIVE = "unanswered question"
"""Cause of a check that raised."""


def examples(context: DiagnosisContext) -> Check:
    """Check whether there are enough examples for the other checks to find masked gradients."""
    says = f"{context.n} examples"
    return flag_check("examples", "B", "few examples", says, raised=context.n < _FEW, hard=False)


def one_class(context: DiagnosisContext) -> Check:
    """Measure the share of the most frequent prediction on clean examples."""
    return learning.one_class(context.y.tolist(), context.predicted.tolist())


def chance(context: DiagnosisContext) -> Check:
    """Compare clean accuracy with the share of the largest class, which a constant network reaches."""
    return learning.chance(context.y.tolist(), context.predicted.tolist())


def attacked(failed: str, checks: Iterable[Check], context: DiagnosisContext) -> Check:
    """Check whether the figure was attacked, and whether every required check ran if any example survives.

    Args:
        failed: reason why the figure's own attack did not run; empty where it ran.
        checks: all checks of the diagnosis.
        context: model, examples and figure.
    """
    if failed:
        says = f"{context.claim} attacked no example, so every correct one counts as robust: {failed}"
        return flag_check("attacked", "B", INCONCLUSIVE, says, raised=True)
    known = {check.name for check in checks if check.verdict != "skipped" and check.cause != INCONCLUSIVE}
    missing = [name for name in REQUIRED if name not in known] if len(context.survivors.sample) else []
    says = f"required checks that did not run: {', '.join(missing)}" if missing else "every required check ran"
    return flag_check("attacked", "B", INCONCLUSIVE, says, raised=bool(missing), hard=False)


def batch(context: DiagnosisContext) -> Check:
    """Check whether an example's logits depend on the rest of its batch: then an attack on one example changes another."""
    if absent := needs_certainty(context, "batch", "B"):
        return absent
    x, cause = context.x[:_EXAMPLES], "answers of the batch"
    if len(x) < 2:
        return skip_check("batch", "B", "one example has no others in its batch")
    together = logits_of(context.model, x)
    try:
        apart = logits_in_parts(context.model, x)
    except Exception as error:  # the model runs on the batch only
        return flag_check(
            "batch",
            "B",
            cause,
            f"the model raises on one example without the others: {describe_or_reraise(error)}",
            raised=True,
        )
    measured = relative_spread(torch.stack([together, apart]))
    says = f"outputs on {len(x)} examples at once and in uneven parts differ by {measured:.2g} of the largest logit"
    return grade_check("batch", "B", cause, says, measured=measured, threshold=ROUNDING, limit=ROUNDING)


def steps(context: DiagnosisContext) -> Check:
    """Check whether twice the steps break more."""
    if absent := needs_gradient(context, "steps", "B"):
        return absent
    count = 2 * max(context.budget.steps, 40)
    return challenge_figure(context, partial(attacks.pgd, steps=count), "steps", "B", f"PGD with {count} steps")


def restarts(context: DiagnosisContext) -> Check:
    """Check whether other starting points break more."""
    if absent := needs_gradient(context, "restarts", "B"):
        return absent
    count = 4 if context.budget.thorough else 2
    attack = partial(attacks.pgd, steps=40, restarts=count)
    return challenge_figure(context, attack, "restarts", "B", f"PGD-40 from {count} other starts")


def margin_loss(context: DiagnosisContext) -> Check:
    """Check whether PGD on the margin, which does not saturate as the cross-entropy does, breaks more."""
    if absent := needs_gradient(context, "margin-loss", "B"):
        return absent
    attack = partial(attacks.pgd, steps=40, objective=margin)
    return challenge_figure(context, attack, "margin-loss", "B", "PGD-40 on the margin")


def ratio_loss(context: DiagnosisContext) -> Check:
    """Check whether Auto-PGD on the difference-of-logits ratio, which is scale-free, breaks more."""
    if absent := needs_gradient(context, "ratio-loss", "B"):
        return absent
    attack = partial(attacks.apgd, steps=context.budget.steps, objective=dlr)
    return challenge_figure(context, attack, "ratio-loss", "B", "Auto-PGD on DLR")


def targeted(context: DiagnosisContext) -> Check:
    """Check whether targeted attacks at the likeliest wrong classes break more."""
    if absent := needs_gradient(context, "targeted", "B"):
        return absent
    attack = partial(attacks.apgd_targeted, steps=context.budget.steps, target_classes=3)
    return challenge_figure(context, attack, "targeted", "B", "Auto-PGD at three wrong classes")


def noise(context: DiagnosisContext) -> Check:
    """Check whether one random point of the ball breaks examples that the figure counts as robust."""
    attack = partial(attacks.random_search, queries=1)
    by = "one random point of the ball"
    return challenge_figure(context, attack, "noise", "B", by, cause="masked gradients", threshold=0.005)


def averaging(context: DiagnosisContext) -> Check:
    """Check whether gradients averaged over samples break more, where outputs are random."""
    if absent := needs_gradient(context, "averaging", "B"):
        return absent
    if not context.is_random:
        return skip_check("averaging", "B", "repeated outputs are equal, so there is nothing to average")
    attack = partial(attacks.apgd, steps=context.budget.steps // 2, eot=10)
    return challenge_figure(context, attack, "averaging", "B", "Auto-PGD over 10 samples", cause="random")

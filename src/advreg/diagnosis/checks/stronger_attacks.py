"""A. Symptoms: an attack that should be weaker breaks more, or an attack that must succeed fails.

Reference: Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018, arXiv:1802.00420.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import Tensor, nn

from advreg import attacks
from advreg.diagnosis.challenge import challenge_figure
from advreg.diagnosis.context import DiagnosisContext, full_box, needs_gradient, run_on
from advreg.diagnosis.surrogate import surrogate_of
from advreg.results.checks import Check, grade_check, grade_gain, skip_check
from advreg.statistics import clopper_pearson_interval, mcnemar
from advreg.threat import ThreatModel

_FEW = 4  # examples that an attack with thousands of queries begins with; it goes on where it breaks one
_LIMITED = "the threat model limits single features, which this check does not know"
_SURE = 0.01  # p-value below which two accuracies differ


def one_step(context: DiagnosisContext) -> Check:
    """Check whether one step breaks survivors of many steps: then the gradient misleads iterative attacks."""
    if absent := needs_gradient(context, "one-step", "A"):
        return absent
    by = "one step of length eps"
    return challenge_figure(context, attacks.fgsm, "one-step", "A", by, cause="masked gradients", threshold=0.005)


def black_box(context: DiagnosisContext) -> Check:
    """Check whether an attack that sees scores only breaks survivors of gradient attacks."""
    queries = context.budget.queries
    by = f"Square, with {queries} queries and no gradient,"
    attack = partial(attacks.square, queries=queries, rescale=True)
    if context.threat.limits is not None:
        by, attack = (
            f"a search by mutation, with {queries} queries and no gradient,",
            partial(attacks.mutate, queries=queries),
        )
    return challenge_figure(context, attack, "black-box", "A", by, cause="masked gradients")


def hard_label(context: DiagnosisContext) -> Check:
    """Check whether an attack that sees labels only breaks survivors of gradient attacks."""
    if context.threat.norm == "l1":
        return skip_check("hard-label", "A", "HopSkipJump is made for l2 and linf")
    if context.threat.limits is not None:
        return skip_check("hard-label", "A", _LIMITED)
    by = "HopSkipJump, which sees labels only,"
    return challenge_figure(context, attacks.hopskipjump, "hard-label", "A", by, cause="masked gradients", first=_FEW)


def transfer(context: DiagnosisContext) -> Check:
    """Check whether adversarial points of a surrogate network break survivors of gradient attacks."""
    by = "transfer from a network trained on the model's predictions"

    def attack(
        model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, ids: Tensor, seed: int
    ) -> attacks.AttackResult:
        own = surrogate_of(context)  # trained only if any example survives
        return attacks.transfer(model, x, y, threat, surrogate=own, ids=ids, seed=seed)

    return challenge_figure(context, attack, "transfer", "A", by, cause="masked gradients")


def random_search(context: DiagnosisContext) -> Check:
    """Check whether random points of the ball break survivors of gradient attacks."""
    draws = context.budget.draws
    attack = partial(attacks.random_search, queries=draws)
    by = f"the best of {draws} random points of the ball"
    return challenge_figure(context, attack, "random-search", "A", by, cause="masked gradients")


def unbounded(context: DiagnosisContext) -> Check:
    """Check whether the figure's attack succeeds if every point of the box is allowed, where an attack must succeed."""
    if absent := needs_gradient(context, "unbounded", "A"):
        return absent
    if context.threat.limits is not None:
        return skip_check("unbounded", "A", _LIMITED)
    rows = context.right.nonzero()[:, 0][: context.budget.examples]
    wide = full_box(context.threat, context.x)
    survivors = int((~run_on(context, context.attack, rows, threat=wide)).sum())
    says = f"with the whole box allowed {survivors} of {len(rows)} examples survive the same attack"
    share, ends = survivors / len(rows), clopper_pearson_interval(survivors, len(rows))
    return grade_check("unbounded", "A", "masked gradients", says, measured=share, threshold=0.01, limit=0.1, ends=ends)


def eps_curve(context: DiagnosisContext) -> Check:
    """Check whether accuracy falls as eps grows: a rise shows that the larger ball is searched worse."""
    if absent := needs_gradient(context, "eps-curve", "A"):
        return absent
    measured, p = max(accuracy_rises(list(context.by_eps.values())), default=(0.0, 1.0))
    says = f"from one radius to a larger one accuracy rises by {measured:.1%} at most (p = {p:.2g})"
    sure = measured if p < _SURE else 0.0
    return grade_check("eps-curve", "A", "masked gradients", says, measured=sure, threshold=0.005, limit=0.1)


def accuracy_rises(robust: list[Tensor]) -> list[tuple[float, float]]:
    """Return each rise of accuracy from a radius to a larger one, with its p-value.

    Args:
        robust: which examples survive ``(R,)`` at each radius, in increasing order.
    """
    found = []
    for k, near in enumerate(robust):
        for far in robust[k + 1 :]:
            up, down = int((far & ~near).sum()), int((near & ~far).sum())
            if up > down:
                found.append(((up - down) / len(near), mcnemar(up, down, "greater")))
    return found


def gap(checks: Iterable[Check], context: DiagnosisContext) -> Check:
    """Measure the share of the examples that all attacks of the checks break together."""
    ids = sorted({i for check in checks for i in check.ids})
    survivors = len(context.robust_rows)
    return grade_gain(
        "gap",
        "G",
        "weak attack",
        "the union of all attacks",
        broken=ids,
        tried=survivors - len(context.survivors.behind),
        survivors=survivors,
        total=context.n,
        threshold=0.005,
    )

"""A. Symptoms: attacks that ought to be weaker, and are not; attacks that ought to succeed, and do not.

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

_FEW = 4  # examples that an attack of thousands of queries begins with: it goes on where it breaks one
_SURE = 0.01  # p-value below which two accuracies differ


def one_step(subject: DiagnosisContext) -> Check:
    """Check whether one step breaks what many steps did not: then the gradient misleads the many."""
    if absent := needs_gradient(subject, "one-step", "A"):
        return absent
    by = "one step of length eps"
    return challenge_figure(subject, attacks.fgsm, "one-step", "A", by, cause="masked gradients", threshold=0.005)


def black_box(subject: DiagnosisContext) -> Check:
    """Check whether an attack that sees scores only breaks what gradients did not."""
    queries = subject.budget.queries
    by = f"Square, with {queries} queries and no gradient,"
    attack = partial(attacks.square, queries=queries, rescale=True)
    return challenge_figure(subject, attack, "black-box", "A", by, cause="masked gradients")


def hard_label(subject: DiagnosisContext) -> Check:
    """Check whether an attack that sees labels only breaks what gradients did not."""
    if subject.threat.norm == "l1":
        return skip_check("hard-label", "A", "HopSkipJump is made for l2 and linf")
    by = "HopSkipJump, which sees labels only,"
    return challenge_figure(subject, attacks.hopskipjump, "hard-label", "A", by, cause="masked gradients", first=_FEW)


def transfer(subject: DiagnosisContext) -> Check:
    """Check whether points made on a surrogate network break what the model's own gradients did not."""
    by = "transfer from a network trained on the model's answers"

    def attack(
        model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, ids: Tensor, seed: int
    ) -> attacks.AttackResult:
        own = surrogate_of(subject)  # trained only where a survivor is left to try
        return attacks.transfer(model, x, y, threat, surrogate=own, ids=ids, seed=seed)

    return challenge_figure(subject, attack, "transfer", "A", by, cause="masked gradients")


def random_search(subject: DiagnosisContext) -> Check:
    """Check whether points drawn blindly from the ball break what gradients did not."""
    draws = subject.budget.draws
    attack = partial(attacks.random_search, queries=draws)
    by = f"the best of {draws} random points of the ball"
    return challenge_figure(subject, attack, "random-search", "A", by, cause="masked gradients")


def unbounded(subject: DiagnosisContext) -> Check:
    """Check whether the figure's attack wins when every point of the box is allowed: there an attack must win."""
    if absent := needs_gradient(subject, "unbounded", "A"):
        return absent
    rows = subject.right.nonzero()[:, 0][: subject.budget.examples]
    wide = full_box(subject.threat, subject.x)
    kept = int((~run_on(subject, subject.attack, rows, threat=wide)).sum())
    says = f"with the whole box allowed the same attack leaves {kept} of {len(rows)} examples standing"
    share, ends = kept / len(rows), clopper_pearson_interval(kept, len(rows))
    return grade_check("unbounded", "A", "masked gradients", says, measured=share, threshold=0.01, limit=0.1, ends=ends)


def eps_curve(subject: DiagnosisContext) -> Check:
    """Check whether accuracy falls as eps grows, each radius attacked afresh: a rise shows a larger ball searched worse."""
    if absent := needs_gradient(subject, "eps-curve", "A"):
        return absent
    measured, p = max(accuracy_rises(list(subject.by_eps.values())), default=(0.0, 1.0))
    says = f"from one radius to a larger one accuracy rises by {measured:.1%} at most (p = {p:.2g})"
    sure = measured if p < _SURE else 0.0
    return grade_check("eps-curve", "A", "masked gradients", says, measured=sure, threshold=0.005, limit=0.1)


def accuracy_rises(stands: list[Tensor]) -> list[tuple[float, float]]:
    """Return by how much accuracy rises from each radius to each larger one, and how likely chance does as much."""
    found = []
    for k, near in enumerate(stands):
        for far in stands[k + 1 :]:
            up, down = int((far & ~near).sum()), int((near & ~far).sum())
            if up > down:
                found.append(((up - down) / len(near), mcnemar(up, down, "greater")))
    return found


def gap(checks: Iterable[Check], subject: DiagnosisContext) -> Check:
    """Measure how far everything that was tried lowers the figure together."""
    ids = sorted({i for check in checks for i in check.ids})
    standing, kept = len(subject.standing), len(subject.survivors.behind)
    by = "everything that was tried, together,"
    return grade_gain(
        "gap", "G", "weak attack", by, broken=ids, tried=standing - kept, standing=standing, total=subject.n,
        threshold=0.005,
    )  # fmt: skip

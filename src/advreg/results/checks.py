"""The verdict on a robustness figure: checks, how their measurements are graded, and what the grades add up to.

Pure functions of numbers: nothing here queries a model. `advreg.evaluation.ledger_checks` reads checks from a ledger, and the
room `advreg.diagnosis` adds those that query the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from advreg.statistics import clopper_pearson_interval

Outcome = Literal["pass", "suspect", "fail", "skipped"]
Verdict = Literal["TRUSTED", "SUSPECT", "UNRELIABLE"]

GAIN = 0.002
"""Share of the examples that another attack may break beyond the figure's own before the figure is suspect (AutoAttack)."""

GAP = 0.06
"""Share beyond which the figure is wrong, not loose: recipes that mask gradients show more between PGD and AutoAttack."""

DISAGREEMENT = 0.005
"""Share of the points on which two outputs that should agree may differ: of a copy and its original, or of one model twice."""

DISAGREEMENT_LIMIT = 0.05
"""Share beyond which verdicts depend on which of the outputs is used."""

CAUSES = {
    "train mode": "call model.eval() and measure again",
    "answers of the batch": "call model.eval(), let BatchNorm keep statistics (track_running_stats), draw noise by example",
    "not learning": "train until it beats the largest class: lower optimizer.lr, let eps grow from 0, verify that labels fit",
    "probabilities": "let the model return logits: drop the softmax at its end",
    "random": "average gradients over many samples (EOT): protocol rand, or --adapt",
    "test-time optimisation": "attack through the whole procedure (unroll it, or BPDA), and count its passes as the model's",
    "no gradient path": "replace the step that cuts the gradient by a smooth one in the backward pass (BPDA): --adapt",
    "answers only": "evaluate the network itself if you have it: attacks with gradients are stronger",
    "coarse answers": "use an attack that needs labels only, because coarse scores do not rank its points: --protocol labels",
    "shattered gradients": "replace the step without a gradient by a smooth one in the backward pass (BPDA): --adapt",
    "saturated": "attack with a loss that does not saturate (margin, DLR), or divide the logits first: --adapt",
    "wrong gradients": "correct the custom backward pass, if there is one; attack with BPDA, transfer or Square: --adapt",
    "overfitted to one step": "evaluate with more than one step; train with more steps, or stop before the collapse",
    "unanswered question": "fix the error that stopped the check, and diagnose again",
    "weak attack": "use a stronger protocol: more steps and restarts, several losses, a black box: --protocol strong",
    "masked gradients": "gradients mislead: add a black-box attack, transfer and BPDA: --adapt",
    "fast copy": "evaluate with --precision float32, or attack the original",
    "broken numerics": "fix the operation that makes outputs NaN or infinite",
    "few examples": "diagnose at least 50 examples, better 500: -n, or more data",
}
"""What may be wrong, the most specific first, and what to do about it."""


@dataclass(frozen=True, repr=False)
class Check:
    """One test of a robustness figure, and what it measured.

    Attributes:
        name: what it is called, and the heading of its section in ``docs/diagnose.md``.
        group: A symptoms, B convergence, C flags, D indicators, E binarisation, F numerics, G training.
        verdict: ``"pass"``, ``"suspect"``, ``"fail"``, or ``"skipped"`` with the reason in ``says``.
        measured: the number that was graded; None if skipped.
        interval: its exact 95% interval where it is a share.
        threshold: the measured value beyond which it is not a pass.
        limit: the value beyond which it is a failure, None where it never is.
        says: one sentence.
        cause: what a failure points to, one of `CAUSES`.
        ids: examples that the figure counts as robust and this check broke.
        source: ``"measured"``, or ``"ledger"`` where the rows of an evaluation already held the measurement.
    """

    name: str
    group: str
    verdict: Outcome
    measured: float | None = None
    interval: tuple[float, float] | None = None
    threshold: float | None = None
    limit: float | None = None
    says: str = ""
    cause: str = ""
    ids: tuple[int, ...] = ()
    source: str = "measured"

    @property
    def remedy(self) -> str:
        """What to try next; empty where nothing is wrong."""
        return CAUSES[self.cause] if self.verdict in ("suspect", "fail") else ""

    @property
    def link(self) -> str:
        """Where the check is documented."""
        return f"docs/diagnose.md#{self.name}"

    def __repr__(self) -> str:
        return f"Check({self.name}: {self.verdict}{f', {self.says}' if self.says else ''})"

    def record(self) -> dict[str, Any]:
        """Return the check in its JSON form."""
        return {**vars(self), "remedy": self.remedy, "link": self.link, "ids": list(self.ids)}


def skip_check(name: str, group: str, reason: str) -> Check:
    """Return a check that could not be made, with the reason.

    Args:
        name: name of the check.
        group: group of the check, A to G.
        reason: why it could not be made.

    Returns:
        The skipped check.
    """
    return Check(name, group, "skipped", says=reason)


def flag_check(name: str, group: str, cause: str, says: str, *, raised: bool, hard: bool = True) -> Check:
    """Return the check of a yes-or-no finding: 1 where it was raised.

    Args:
        name: name of the check.
        group: A to G, see `Check`.
        cause: what a failure points to, one of `CAUSES`.
        says: one sentence on the finding.
        raised: whether the finding was made.
        hard: whether the finding is a failure; otherwise it makes the figure suspect.

    Returns:
        The graded check.

    Example:
        >>> flag_check("train mode", "C", "train mode", "the model is in train mode", raised=True).verdict
        'fail'
    """
    outcome: Outcome = "pass" if not raised else "fail" if hard else "suspect"
    return Check(name, group, outcome, float(raised), None, 0.0, 0.0 if hard else None, says, cause)


def grade_check(
    name: str,
    group: str,
    cause: str,
    says: str,
    *,
    measured: float,
    threshold: float,
    limit: float | None = None,
    ends: tuple[float, float] | None = None,
    ids: Iterable[int] = (),
) -> Check:
    """Grade a number that should be small: by its interval's lower end where it has one, so that chance raises no alarm.

    Args:
        name: name of the check.
        group: A to G, see `Check`.
        cause: what a failure points to, one of `CAUSES`.
        says: one sentence on the measurement.
        measured: the number that is graded.
        threshold: value beyond which the figure is suspect.
        limit: value beyond which the check fails; None where it never does.
        ends: 95% interval of the number, where it is a share.
        ids: examples that the figure counts as robust and this check broke.

    Returns:
        The graded check.

    Example:
        >>> grade_check("noise", "B", "weak attack", "", measured=0.02, threshold=0.01, ends=(0.001, 0.08)).verdict
        'pass'
    """
    sure = measured if ends is None else ends[0]
    outcome: Outcome = "fail" if limit is not None and sure > limit else "suspect" if sure > threshold else "pass"
    return Check(name, group, outcome, measured, ends, threshold, limit, says, cause, tuple(ids))


def grade_gain(
    name: str,
    group: str,
    cause: str,
    by: str,
    *,
    broken: Sequence[int],
    tried: int,
    survivors: int,
    total: int,
    threshold: float = GAIN,
) -> Check:
    """Grade what another attack breaks of the examples that the figure counts as robust.

    ``share = broken / total``: what the figure surely loses, in points of robust accuracy. Examples that the attack did not try
    count as robust, so that it may try the nearest to the boundary only.

    Args:
        name: name of the check.
        group: A to G, see `Check`.
        cause: what a failure points to, one of `CAUSES`.
        by: the other attack, in words.
        broken: ids that it broke.
        tried: number of these examples on which it was run.
        survivors: number of examples that the figure counts as robust.
        total: number of examples in the figure.
        threshold: share beyond which the figure is suspect.

    Returns:
        The graded check; skipped if the attack was run on no example.

    Example:
        >>> grade_gain("black-box", "A", "masked gradients", "Square", broken=[4], tried=50, survivors=90, total=100).verdict
        'pass'
    """
    if not survivors:
        return Check(name, group, "pass", 0.0, (0.0, 0.0), threshold, GAP, "no example survives", cause)
    if not tried:
        return skip_check(name, group, f"{by} had no example to try: the attacks before broke them all")
    share, ends = len(broken) / total, clopper_pearson_interval(len(broken), total)
    says = f"{by} breaks {len(broken)} of {tried} examples that the figure counts as robust"
    return grade_check(name, group, cause, says, measured=share, threshold=threshold, limit=GAP, ends=ends, ids=broken)


def verdict(checks: Iterable[Check]) -> Verdict:
    """Return the verdict on a figure: UNRELIABLE if a check fails, SUSPECT if one warns, else TRUSTED.

    Args:
        checks: any number of checks.

    Returns:
        ``"TRUSTED"``, ``"SUSPECT"`` or ``"UNRELIABLE"``.

    Example:
        >>> verdict([skip_check("black-box", "A", "no such attack in the protocol")])
        'TRUSTED'
    """
    outcomes = {check.verdict for check in checks}
    return "UNRELIABLE" if "fail" in outcomes else "SUSPECT" if "suspect" in outcomes else "TRUSTED"


def provisional_verdict(checks: Iterable[Check]) -> Verdict | None:
    """Return the verdict of an evaluation's free checks: a doubt at once, trust only where there was something to compare.

    One attack alone may fail for any reason: without a second one along the gradient, one without gradients, and labels of
    several classes, the checks have nothing to compare, and the verdict is None until a diagnosis.

    Args:
        checks: the free checks of an evaluation.

    Returns:
        The verdict, or None.
    """
    found = list(checks)
    worst = verdict(found)
    idle = {check.name for check in found if check.verdict == "skipped"}
    return None if worst == "TRUSTED" and idle & {"black-box", "steps", "chance"} else worst


_SEVERITY: tuple[Outcome, ...] = ("skipped", "pass", "suspect", "fail")


def worst_outcomes(groups: Iterable[Sequence[Check]]) -> list[Check]:
    """Return each check's worst outcome over several lists of the same checks, such as those at each eps of a curve.

    Args:
        groups: lists of checks.

    Returns:
        One check for each name, in the order of the first list.
    """
    found: dict[str, Check] = {}
    for check in (check for group in groups for check in group):
        before = found.get(check.name)
        if before is None or _SEVERITY.index(check.verdict) > _SEVERITY.index(before.verdict):
            found[check.name] = check
    return list(found.values())


def causes(checks: Iterable[Check]) -> tuple[str, ...]:
    """Return what the failures (or, without any, the warnings) point to, the most specific cause first.

    Args:
        checks: any number of checks.

    Returns:
        Keys of `CAUSES`.
    """
    found = list(checks)
    worst = "fail" if any(check.verdict == "fail" for check in found) else "suspect"
    named = {check.cause for check in found if check.verdict == worst}
    specific = {check.cause for check in found if check.verdict == "suspect"} - _VAGUE
    return tuple(cause for cause in CAUSES if cause in named | specific)


_VAGUE = {"weak attack", "masked gradients"}  # what every mask looks like from outside

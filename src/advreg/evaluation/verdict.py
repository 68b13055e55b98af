"""The verdict on a robustness figure: checks, how their measurements are graded, and those that a ledger answers for free.

Pure functions of numbers and rows: nothing here asks a model. The room `advreg.diagnosis` adds the checks that do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from advreg.evaluation.rows import CLEAN, Row, broken_ids
from advreg.statistics import interval

Outcome = Literal["pass", "suspect", "fail", "skipped"]
Verdict = Literal["TRUSTED", "SUSPECT", "UNRELIABLE"]

GAIN = 0.002
"""Share of the examples that another attack may break beyond the figure's own before the figure is suspect (AutoAttack)."""

GAP = 0.06
"""Share beyond which the figure is wrong, not loose: recipes that mask gradients show more between PGD and AutoAttack."""

CAUSES = {
    "train mode": "call model.eval() and measure again",
    "answers of the batch": "call model.eval(), let BatchNorm keep statistics (track_running_stats), draw noise by example",
    "probabilities": "let the model return logits: drop the softmax at its end",
    "random": "average gradients over many samples (EOT): protocol rand, or --adapt",
    "test-time optimisation": "attack through the whole procedure (unroll it, or BPDA), and count its passes as the model's",
    "no gradient path": "replace the step that cuts the gradient by a smooth one in the backward pass (BPDA): --adapt",
    "answers only": "evaluate the network itself, where you have it: attacks with gradients find more",
    "shattered gradients": "replace the step without a slope by a smooth one in the backward pass (BPDA): --adapt",
    "saturated": "attack with a loss that does not vanish (margin, DLR), or divide the logits first: --adapt",
    "wrong gradients": "look for a custom backward; attack with BPDA, transfer or Square: --adapt",
    "overfitted to one step": "never judge by one step; train with more steps, or stop before the collapse",
    "unanswered question": "mend what stopped the check, and diagnose again: what was not asked cannot be trusted",
    "weak attack": "use a stronger protocol: more steps and restarts, several losses, a black box: --protocol strong",
    "masked gradients": "gradients mislead here: add a black-box attack, transfer and BPDA: --adapt",
    "fast copy": "evaluate with --precision float32, or attack the original",
    "broken numerics": "mend what makes the model answer NaN or infinity",
    "few examples": "diagnose at least 50 examples, better 500: -n, or more data",
}
"""What may be wrong, the most specific first, and what to do about it."""


@dataclass(frozen=True)
class Check:
    """One question put to a robustness figure, and what was measured.

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
        source: ``"measured"``, or ``"ledger"`` where the rows of an evaluation already held the answer.
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

    def record(self) -> dict[str, Any]:
        """Return the check as it stands in JSON."""
        return {**vars(self), "remedy": self.remedy, "link": self.link, "ids": list(self.ids)}


def skipped(name: str, group: str, reason: str) -> Check:
    """Return a check that could not be made, with the reason."""
    return Check(name, group, "skipped", says=reason)


def flagged(name: str, group: str, cause: str, says: str, *, raised: bool, hard: bool = True) -> Check:
    """Grade a yes-or-no finding: 1 where it was raised."""
    outcome: Outcome = "pass" if not raised else "fail" if hard else "suspect"
    return Check(name, group, outcome, float(raised), None, 0.0, 0.0 if hard else None, says, cause)


def graded(
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

    Example:
        >>> graded("noise", "B", "weak attack", "", measured=0.02, threshold=0.01, ends=(0.001, 0.08)).verdict
        'pass'
    """
    sure = measured if ends is None else ends[0]
    outcome: Outcome = "fail" if limit is not None and sure > limit else "suspect" if sure > threshold else "pass"
    return Check(name, group, outcome, measured, ends, threshold, limit, says, cause, tuple(ids))


def gain(
    name: str,
    group: str,
    cause: str,
    by: str,
    *,
    broken: Sequence[int],
    tried: int,
    standing: int,
    total: int,
    threshold: float = GAIN,
) -> Check:
    """Grade what another attack breaks of the examples that the figure counts as robust.

    ``share = broken / tried * standing / total``: what the figure would lose, in points of robust accuracy.

    Args:
        name, group, cause: of the check.
        by: the other attack, in words.
        broken: ids that it broke.
        tried: how many of the standing examples it was tried on.
        standing: examples that the figure counts as robust.
        total: examples in the figure's denominator.
        threshold: share beyond which the figure is suspect.

    Example:
        >>> gain("black-box", "A", "masked gradients", "Square", broken=[4], tried=50, standing=90, total=100).verdict
        'pass'
    """
    if not standing:
        return Check(
            name, group, "pass", 0.0, (0.0, 0.0), threshold, GAP, "nothing stands that could still fall", cause
        )
    scale = standing / total
    low, high = interval(len(broken), tried)
    share = len(broken) / max(tried, 1) * scale
    says = f"{by} breaks {len(broken)} of {tried} examples that the figure counts as robust"
    ends = (low * scale, high * scale)
    return graded(
        name, group, cause, says, measured=share, threshold=threshold, limit=GAP, ends=ends, ids=broken
    )  # fmt: skip


def verdict(checks: Iterable[Check]) -> Verdict:
    """Return the verdict on a figure: UNRELIABLE if a check fails, SUSPECT if one warns, else TRUSTED.

    Example:
        >>> verdict([skipped("black-box", "A", "no such attack in the protocol")])
        'TRUSTED'
    """
    outcomes = {check.verdict for check in checks}
    return "UNRELIABLE" if "fail" in outcomes else "SUSPECT" if "suspect" in outcomes else "TRUSTED"


def provisional(checks: Iterable[Check]) -> Verdict | None:
    """Return the verdict of an evaluation's free checks: a doubt at once, trust only where there was something to compare.

    One attack alone may fail for any reason: without a second one along the gradient and one without gradients, the checks
    have nothing to say, and the verdict is None until somebody diagnoses.
    """
    found = list(checks)
    worst = verdict(found)
    idle = {check.name for check in found if check.verdict == "skipped"}
    return None if worst == "TRUSTED" and idle & {"black-box", "steps"} else worst


def causes(checks: Iterable[Check]) -> tuple[str, ...]:
    """Return what the failures (or, without any, the warnings) point to, the most specific cause first."""
    found = list(checks)
    worst = "fail" if any(check.verdict == "fail" for check in found) else "suspect"
    named = {check.cause for check in found if check.verdict == worst}
    specific = {check.cause for check in found if check.verdict == "suspect"} - _VAGUE
    return tuple(cause for cause in CAUSES if cause in named | specific)


_IDLE = 0.1  # of the robust: where a network is very sure, cross-entropy is zero to the last bit, and no step helps

_VAGUE = {"weak attack", "masked gradients"}  # what every mask looks like from outside


def free_checks(record: Mapping[str, Any], rows: Sequence[Row]) -> list[Check]:
    """Return the checks that a finished evaluation answers without asking the model again.

    Args:
        record: the evaluation's figures as in ``results.json``, its ``flags`` among them.
        rows: the evaluation's ledger.

    Returns:
        Flags, black-box gain, convergence, and examples on which no attack along the gradient moved the loss.
    """
    flags, stages = record.get("flags", {}), _stages(rows)
    found = [
        _randomness(flags, str(record.get("protocol", ""))),
        _batch(flags),
        _gradient_path(flags),
        _zero_gradients(flags, record),
        _finite(flags),
        _black_box(rows),
        _converged(rows, stages),
        _unmoved(rows, stages),
    ]
    return [replace(check, source="ledger") for check in found]


_UNKNOWN = "this evaluation did not look"
_LOOKED_AT = 64  # examples behind an evaluation's share of zero gradients


def _randomness(flags: Mapping[str, Any], protocol: str) -> Check:
    if "randomised" not in flags:
        return skipped("randomness", "C", _UNKNOWN)
    averaged = "-rand@" in protocol
    raised = bool(flags["randomised"]) and not averaged
    says = "the same inputs get different answers" if flags["randomised"] else "the same inputs get the same answers"
    says += ", and the protocol averages over them" if averaged else ""
    return flagged("randomness", "C", "random", says, raised=raised, hard=False)


def _batch(flags: Mapping[str, Any]) -> Check:
    if "batch_dependent" not in flags:
        return skipped("batch", "B", _UNKNOWN)
    raised = bool(flags["batch_dependent"])
    says = "answers depend on the batch" if raised else "answers are the same in batches of other sizes"
    return flagged("batch", "B", "answers of the batch", says, raised=raised)


def _gradient_path(flags: Mapping[str, Any]) -> Check:
    if "zero_gradients" not in flags:
        return skipped("gradient-path", "D", _UNKNOWN)
    if flags.get("answers_only"):  # nobody cut anything: the network is elsewhere
        says = "the model only answers, so nothing but black boxes attacked it"
        return flagged("gradient-path", "D", "answers only", says, raised=True, hard=False)
    raised = flags["zero_gradients"] is None
    says = "no gradient can be had" if raised else "gradients reach the input"
    return flagged("gradient-path", "D", "no gradient path", says, raised=raised)


def _zero_gradients(flags: Mapping[str, Any], record: Mapping[str, Any]) -> Check:
    share = flags.get("zero_gradients")
    if share is None or not record.get("robust_accuracy", 1.0):  # where nothing stands, no gradient was missed
        return skipped("zero-gradients", "D", _UNKNOWN if share is None else "nothing stands")
    looked_at = min(_LOOKED_AT, int(record.get("n", _LOOKED_AT)))
    ends = interval(round(share * looked_at), looked_at) if share else (0.0, 0.0)
    says = f"{share:.1%} of {looked_at} clean examples have a gradient of exactly zero"
    return graded(
        "zero-gradients", "D", "saturated", says, measured=share, threshold=0.0, limit=0.05, ends=ends
    )  # fmt: skip


def _finite(flags: Mapping[str, Any]) -> Check:
    count = int(flags.get("non_finite", 0))
    says = f"{count} answers under attack are NaN or infinite"
    return flagged("finite", "F", "broken numerics", says, raised=count > 0, hard=False)


@dataclass(frozen=True)
class _Stage:
    """One attack as its rows show it: what it is follows from what it asked for."""

    name: str
    rows: tuple[Row, ...]

    @property
    def is_gradient(self) -> bool:
        return any(row["backwards"] for row in self.rows)

    @property
    def is_iterative(self) -> bool:
        return any(row["backwards"] > 1 for row in self.rows)

    @property
    def moves(self) -> bool:
        """Whether it returns any point but the clean one where it fails: minimum-norm attacks do not, nor does eps 0."""
        return any(row.get("distance", 1.0) > 0 for row in self.rows if not row["broken"])

    @property
    def broken(self) -> list[int]:
        return sorted(broken_ids(self.rows))


def _stages(rows: Sequence[Row]) -> list[_Stage]:
    names = dict.fromkeys(row["attack"] for row in rows if row["attack"] != CLEAN)
    return [_Stage(name, tuple(row for row in rows if row["attack"] == name)) for name in names]


def _count(rows: Sequence[Row]) -> int:
    return sum(row["attack"] == CLEAN for row in rows)


def _share(name: str, group: str, cause: str, says: str, broken: list[int], n: int, threshold: float) -> Check:
    ends = interval(len(broken), n)
    return graded(
        name, group, cause, says, measured=len(broken) / n, threshold=threshold, limit=GAP, ends=ends, ids=broken
    )  # fmt: skip


def black_boxes(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Return the attacks without gradients that came after one with gradients, each with the examples that it broke.

    Gradients had had their turn on all of these examples. Attacks before the first of those show nothing: whatever they
    broke, gradients never met.
    """
    stages = _stages(rows)
    first = next((k for k, stage in enumerate(stages) if stage.is_gradient), len(stages))
    return {stage.name: stage.broken for stage in stages[first:] if not stage.is_gradient}


def _black_box(rows: Sequence[Row]) -> Check:
    """Ask how much attacks that see scores only broke after attacks that see gradients."""
    blind = black_boxes(rows)
    if not blind:
        return skipped("black-box", "A", "the protocol has no black-box attack after one with gradients")
    broken = sorted(i for ids in blind.values() for i in ids)
    says = f"{', '.join(blind)} broke {len(broken)} examples that the gradients before had not"
    return _share("black-box", "A", "masked gradients", says, broken, _count(rows), GAIN)


def _converged(rows: Sequence[Row], stages: list[_Stage]) -> Check:
    """Ask how much the last attack along the gradient still broke."""
    iterative = [stage for stage in stages if stage.is_iterative]
    if len(iterative) < 2:
        return skipped("steps", "B", "the protocol has one attack with many steps: there is nothing to compare it with")
    last = iterative[-1]
    says = f"{last.name}, the last gradient attack of {len(iterative)}, still broke {len(last.broken)}"
    return _share("steps", "B", "weak attack", says, last.broken, _count(rows), 0.005)


def _unmoved(rows: Sequence[Row], stages: list[_Stage]) -> Check:
    """Ask on how many robust examples no gradient attack raised the margin above that of the clean point."""
    clean = {row["id"]: row["margin"] for row in rows if row["attack"] == CLEAN}
    lost = broken_ids(rows)
    best: dict[int, float] = {}
    for stage in stages:
        for row in stage.rows if stage.is_gradient and stage.moves else ():
            if row["id"] not in lost:
                best[row["id"]] = max(best.get(row["id"], row["margin"]), row["margin"])
    if not best:
        return skipped("moved", "D", "no gradient attack left anything standing")
    idle = [i for i, margin in best.items() if margin <= clean[i]]
    says = f"on {len(idle)} of {len(best)} robust examples no gradient attack raised the loss at all"
    ends = interval(len(idle), len(best))
    return graded(
        "moved", "D", "masked gradients", says, measured=len(idle) / len(best), threshold=_IDLE, limit=3 * _IDLE, ends=ends
    )  # fmt: skip

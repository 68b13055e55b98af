"""Checks made from the ledger of a finished evaluation, without querying the model again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from advreg.evaluation.coarse_outputs import check_coarseness
from advreg.evaluation.learning import chance, one_class
from advreg.results.checks import GAIN, GAP, Check, flag_check, grade_check, skip_check
from advreg.results.ledger_rows import CLEAN, Row
from advreg.results.ledger_table import ABSENT, Column, LedgerTable, table_of
from advreg.statistics import clopper_pearson_interval

_IDLE = 0.1  # share of the robust: on a very confident network cross-entropy is exactly zero, and no step helps


def free_checks(record: Mapping[str, Any], rows: Iterable[Row] | LedgerTable) -> list[Check]:
    """Return the checks that a finished evaluation covers without querying the model again.

    Args:
        record: figures of the evaluation as in ``results.json``, including ``flags``.
        rows: its ledger.

    Returns:
        Checks of learning, flags, black-box gain and convergence, and of examples on which no gradient attack raised the loss.
    """
    flags, table = record.get("flags", {}), table_of(rows)
    stages, (labels, predicted) = _stages(table), _clean_predictions(table)
    found = [
        one_class(labels, predicted),
        chance(labels, predicted),
        _randomness(flags, str(record.get("protocol", ""))),
        _batch(flags),
        _gradient_path(flags),
        check_coarseness(flags, str(record.get("protocol", ""))),
        _zero_gradients(flags, record),
        _finite(flags),
        *_counts_of_broken(table, stages, has_rules="-rules-" in str(record.get("protocol", ""))),
        _unmoved_examples(table, stages),
    ]
    return [replace(check, source="ledger") for check in found]


def _counts_of_broken(table: LedgerTable, stages: list[_Stage], *, has_rules: bool) -> tuple[Check, Check]:
    """Return the checks that count broken examples; in tasks with scores, nothing is broken while scores fall."""
    if table.has_scores:
        why = "it counts broken examples, and scores fall by degrees: advreg.diagnose(task=) measures it"
        return skip_check("black-box", "A", why), skip_check("steps", "B", why)
    return _black_box(table, has_rules=has_rules), _convergence(table, stages)


def _clean_predictions(table: LedgerTable) -> tuple[list[int], list[int]]:
    """Return labels and predictions of the clean examples; ledgers of other programs may lack them."""
    clean = table.select(table.of(CLEAN) & (table["label"] != ABSENT) & (table["predicted"] != ABSENT))
    return clean["label"].tolist(), clean["predicted"].tolist()


_NOT_MEASURED = "not measured by this evaluation"
_RULES_GAP = 0.2  # share that a search breaks after gradients, where rules of features allow it to
_PROBED = 64  # examples behind an evaluation's share of zero gradients


def averages_outputs(protocol: str) -> bool:
    """Return whether the attacks of this protocol id average over the outputs of a random model.

    Args:
        protocol: id of the protocol.

    Returns:
        True for the protocol ``rand``.

    Example:
        >>> averages_outputs("linf-0.1-rand@1"), averages_outputs("linf-0.1-strong@3")
        (True, False)
    """
    return "-rand@" in protocol


def _randomness(flags: Mapping[str, Any], protocol: str) -> Check:
    if "randomised" not in flags:
        return skip_check("randomness", "C", _NOT_MEASURED)
    averaged = averages_outputs(protocol)
    raised = bool(flags["randomised"]) and not averaged
    says = "repeated outputs on the same input differ" if flags["randomised"] else "repeated outputs are equal"
    says += ", and the protocol averages over them" if averaged else ""
    return flag_check("randomness", "C", "random", says, raised=raised, hard=False)


def _batch(flags: Mapping[str, Any]) -> Check:
    if "batch_dependent" not in flags:
        return skip_check("batch", "B", _NOT_MEASURED)
    raised = bool(flags["batch_dependent"])
    says = "outputs depend on the batch" if raised else "outputs are equal in batches of other sizes"
    return flag_check("batch", "B", "answers of the batch", says, raised=raised)


def _gradient_path(flags: Mapping[str, Any]) -> Check:
    if "zero_gradients" not in flags:
        return skip_check("gradient-path", "D", _NOT_MEASURED)
    if flags.get("answers_only"):  # the network runs elsewhere: its gradient was not cut here
        says = "the model gives no gradient, so only black-box attacks ran"
        return flag_check("gradient-path", "D", "answers only", says, raised=True, hard=False)
    raised = flags["zero_gradients"] is None
    says = "no gradient reaches the input" if raised else "gradients reach the input"
    return flag_check("gradient-path", "D", "no gradient path", says, raised=raised)


def _zero_gradients(flags: Mapping[str, Any], record: Mapping[str, Any]) -> Check:
    share = flags.get("zero_gradients")
    if share is None or not record.get("robust_accuracy", 1.0):  # without survivors a zero gradient does no harm
        return skip_check("zero-gradients", "D", _NOT_MEASURED if share is None else "no example survives")
    probed = min(_PROBED, int(record.get("n", _PROBED)))
    ends = clopper_pearson_interval(round(share * probed), probed) if share else (0.0, 0.0)
    says = f"{share:.1%} of {probed} clean examples have a gradient of exactly zero"
    return grade_check("zero-gradients", "D", "saturated", says, measured=share, threshold=0.0, limit=0.05, ends=ends)


def _finite(flags: Mapping[str, Any]) -> Check:
    count = int(flags.get("non_finite", 0))
    says = f"{count} outputs under attack are NaN or infinite"
    return flag_check("finite", "F", "broken numerics", says, raised=count > 0, hard=False)


@dataclass(frozen=True)
class _Stage:
    """One attack of the ledger; the passes in its rows show whether it uses gradients."""

    name: str
    rows: LedgerTable

    @property
    def is_gradient(self) -> bool:
        return bool((self.rows["backwards"] > 0).any())

    @property
    def is_iterative(self) -> bool:
        return bool((self.rows["backwards"] > 1).any())

    @property
    def moves(self) -> bool:
        """Whether it returns another point than the clean one on survivors; minimum-norm attacks and eps 0 do not."""
        return bool((~(self.rows["distance"] <= 0) & ~self.rows["broken"]).any())

    @property
    def by_gradient(self) -> list[int]:
        return _ids_of(self.rows, self.rows["broken"] & ~_by_scores(self.rows))

    @property
    def by_scores(self) -> list[int]:
        return _ids_of(self.rows, self.rows["broken"] & _by_scores(self.rows))


def _ids_of(table: LedgerTable, mask: Column) -> list[int]:
    return [int(i) for i in np.unique(table["id"][mask])]


def _by_scores(rows: LedgerTable) -> Column:
    """Return whether most queries of each row took no gradient: a black box, or Square after a gradient attack."""
    backwards = rows["backwards"]
    return np.asarray((backwards == 0) | (rows["forwards"] > 2 * backwards + 8))


def _stages(table: LedgerTable) -> list[_Stage]:
    return [_Stage(name, table.select(table.of(name))) for name in table.attacks if name != CLEAN]


def _count(table: LedgerTable) -> int:
    return int(table.of(CLEAN).sum())


def _grade_broken(
    name: str, group: str, cause: str, says: str, *, broken: list[int], n: int, threshold: float, limit: float = GAP
) -> Check:
    ends = clopper_pearson_interval(len(broken), n)
    return grade_check(
        name, group, cause, says, measured=len(broken) / n, threshold=threshold, limit=limit, ends=ends, ids=broken
    )


def black_boxes(rows: Iterable[Row] | LedgerTable) -> dict[str, list[int]]:
    """Return the attacks by scores after the first gradient attack, each with the examples that scores broke.

    Attacks before the first gradient attack are left out: no gradient attack tried the examples that they broke. An attack with
    many forwards and few backwards, such as Square from the end point of a gradient attack, counts as one by scores.

    Args:
        rows: a ledger, in order.

    Returns:
        Example ids by the name of the attack.
    """
    stages = _stages(table_of(rows))
    first = next((k for k, stage in enumerate(stages) if stage.is_gradient), len(stages))
    later = (stage for stage in stages[first:] if _by_scores(stage.rows).any())
    return {stage.name: stage.by_scores for stage in later}


def _black_box(rows: LedgerTable, *, has_rules: bool) -> Check:
    """Grade the share that attacks by scores broke after gradient attacks.

    Under rules a search by scores reaches rows that no gradient leads to, so that some gain is no sign of masking.
    """
    named = ("black-box", "A", "masked gradients")
    blind = black_boxes(rows)
    if not blind and _count(rows) and not _survivors(rows):
        return _grade_broken(*named, "no example survives", broken=[], n=_count(rows), threshold=GAIN)
    if not blind:
        return skip_check("black-box", "A", "the protocol has no black-box attack after one with gradients")
    broken = sorted(i for ids in blind.values() for i in ids)
    says = f"{', '.join(blind)} broke {len(broken)} survivors of the gradient attacks before"
    threshold, limit = (GAP, _RULES_GAP) if has_rules else (GAIN, GAP)
    return _grade_broken(*named, says, broken=broken, n=_count(rows), threshold=threshold, limit=limit)


def _survivors(rows: LedgerTable) -> int:
    return _count(rows) - len(rows.broken_ids)


def _convergence(rows: LedgerTable, stages: list[_Stage]) -> Check:
    """Grade the share that the last gradient attack broke; without survivors the figure cannot fall."""
    named = ("steps", "B", "weak attack")
    iterative = [stage for stage in stages if stage.is_iterative]
    if _count(rows) and not _survivors(rows):
        return _grade_broken(*named, "no example survives", broken=[], n=_count(rows), threshold=0.005)
    if len(iterative) < 2:
        return skip_check(
            "steps", "B", "the protocol has one iterative attack, so there is no other to compare it with"
        )
    broken = iterative[-1].by_gradient
    says = f"{iterative[-1].name}, the last gradient attack of {len(iterative)}, broke {len(broken)}"
    return _grade_broken(*named, says, broken=broken, n=_count(rows), threshold=0.005)


def _unmoved_examples(table: LedgerTable, stages: list[_Stage]) -> Check:
    """Measure the share of robust examples on which no gradient attack raised the margin above that of the clean point."""
    moving = [table.of(stage.name) for stage in stages if stage.is_gradient and stage.moves]
    robust = ~np.isin(table["id"], table.broken_ids)
    attacked = _highest_margins(table, robust & np.logical_or.reduce(moving)) if moving else {}
    if not attacked:
        return skip_check("moved", "D", "no example survives the gradient attacks")
    clean = _highest_margins(table, table.of(CLEAN))
    idle = [i for i, margin in attacked.items() if margin <= clean[i]]
    says = f"on {len(idle)} of {len(attacked)} robust examples no gradient attack raised the loss"
    ends = clopper_pearson_interval(len(idle), len(attacked))
    return grade_check(
        "moved",
        "D",
        "masked gradients",
        says,
        measured=len(idle) / len(attacked),
        threshold=_IDLE,
        limit=3 * _IDLE,
        ends=ends,
    )


def _highest_margins(table: LedgerTable, mask: Column) -> dict[int, float]:
    """Return the highest margin of each example among some rows, by id."""
    ids, margins = table["id"][mask], table["margin"][mask]
    order = np.lexsort((margins, ids))
    return dict(zip(ids[order].tolist(), margins[order].tolist(), strict=True))

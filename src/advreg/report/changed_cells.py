"""Rows of a table under attack: which features changed, from which value to which, and what stopped them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from advreg.report.facts import EvaluationFacts, Facts, ThreatFacts

_CLOSE = 1e-5  # relative difference of a value to an end of its range, stored in float32
ROWS, CELLS = 12, 6
"""Rows that a report shows, and the largest changes of each."""


@dataclass(frozen=True)
class ChangedCell:
    """One feature of a row: its name, its value before and after, and the limit or rule that holds there; empty if none."""

    name: str
    before: str
    after: str
    bound: str = ""


@dataclass(frozen=True)
class ChangedRow:
    """One row that an attack broke.

    Attributes:
        id: of the example.
        label, predicted: names of the true class and of the prediction under attack.
        cells: the largest changes, as shares of the feature's spread over the rows.
        more: number of features that changed besides.
    """

    id: int
    label: str
    predicted: str
    cells: tuple[ChangedCell, ...]
    more: int


def changed_rows(evaluation: EvaluationFacts) -> list[ChangedRow]:
    """Return rows that attacks broke, for a table; none for other data.

    Args:
        evaluation: the evaluation, with its stored examples.

    Returns:
        At most `ROWS` rows, in their order.
    """
    examples = evaluation.examples
    if examples is None or evaluation.threat.kind != "table":
        return []
    spread = examples.clean.std(axis=0) + 1e-12
    right = examples.clean_predicted == examples.labels
    rows = np.flatnonzero(examples.broken & right)[:ROWS]
    return [
        _row(evaluation, int(row), np.abs(examples.adversarial[row] - examples.clean[row]) / spread) for row in rows
    ]


def _row(evaluation: EvaluationFacts, row: int, size: np.ndarray) -> ChangedRow:
    examples = evaluation.examples
    assert examples is not None
    changed = [int(k) for k in np.argsort(-size, kind="stable") if size[k] > 0]
    names = evaluation.columns or tuple(f"feature {k}" for k in range(len(size)))
    before, after = examples.clean[row], examples.adversarial[row]
    cells = tuple(
        ChangedCell(
            names[k],
            f"{before[k]:.4g}",
            f"{after[k]:.4g}",
            _bound(evaluation.threat, k, (float(before[k]), float(after[k])), names),
        )
        for k in changed[:CELLS]
    )
    return ChangedRow(
        int(examples.ids[row]),
        _class(evaluation, int(examples.labels[row])),
        _class(evaluation, int(examples.adversarial_predicted[row])),
        cells,
        max(0, len(changed) - CELLS),
    )


def _bound(threat: ThreatFacts, k: int, change: tuple[float, float], names: Sequence[str]) -> str:
    """Return what binds a changed value: its equation, its group, an end of its range, or its share of eps."""
    limits, (before, after) = threat.limits, change
    if not limits:
        return ""
    derived, groups = limits.get("derived"), limits.get("groups")
    if isinstance(derived, Mapping) and str(k) in derived:
        return str(derived[str(k)])
    group: list[int] = next((each for each in groups if k in each), []) if isinstance(groups, list) else []
    if group:
        return f"one of {', '.join(name for at, name in enumerate(names) if at in group)}"
    low, high, scale = (_at(limits, key, k) for key in ("low", "high", "scale"))
    for end, word in ((low, "min"), (high, "max")):
        if end is not None and abs(after - end) <= _CLOSE * max(1.0, abs(end)):
            return f"{word} {end:.4g}"
    if scale is None:
        return "free" if "scale" in limits else ""
    share = f"{abs(after - before) / scale:.2g} of {threat.eps:.4g} units"
    return f"{share}, whole numbers" if k in (_whole(limits)) else share


def _whole(limits: Facts) -> list[int]:
    whole = limits.get("integer")
    return whole if isinstance(whole, list) else []


def _at(limits: Facts, key: str, k: int) -> float | None:
    values = limits.get(key)
    return values[k] if isinstance(values, list) and k < len(values) else None


def _class(evaluation: EvaluationFacts, label: int) -> str:
    return evaluation.classes[label] if 0 <= label < len(evaluation.classes) else str(label)

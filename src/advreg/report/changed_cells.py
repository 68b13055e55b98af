"""Rows of a table under attack: which features changed, from which value to which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from advreg.report.facts import EvaluationFacts

ROWS, CELLS = 12, 6
"""Rows that a report shows, and the largest changes of each."""


@dataclass(frozen=True)
class ChangedCell:
    """One feature of a row: its name, and its value before and after."""

    name: str
    before: str
    after: str


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
    cells = tuple(ChangedCell(names[k], f"{before[k]:.4g}", f"{after[k]:.4g}") for k in changed[:CELLS])
    return ChangedRow(
        int(examples.ids[row]),
        _class(evaluation, int(examples.labels[row])),
        _class(evaluation, int(examples.adversarial_predicted[row])),
        cells,
        max(0, len(changed) - CELLS),
    )


def _class(evaluation: EvaluationFacts, label: int) -> str:
    return evaluation.classes[label] if 0 <= label < len(evaluation.classes) else str(label)

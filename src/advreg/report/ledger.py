"""Summary of a ledger: confusions between classes under attack, and the classes that each attack breaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advreg.results.ledger_rows import CLEAN as CLEAN
from advreg.results.ledger_rows import score_of, worst_rows
from advreg.results.reading import read_ledger

MANY_CLASSES = 12
"""Largest number of classes for which a table of all pairs is readable."""
LISTED = 12
"""Largest number of confusions, or of classes of an attack, that are listed."""
_LARGEST_LABEL = 100_000
_KEYS = {"attack": str, "id": int, "label": int, "predicted": int, "broken": bool}

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Confusion:
    """Examples of one class that the model classified as another in their worst case.

    Attributes:
        label: the true class.
        predicted: the predicted class.
        count: number of examples.
        share: their share of the true class.
    """

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, eq=False)
class LedgerSummary:
    """Which examples were broken, by which attack, and the class predicted for them.

    Attributes:
        data: fingerprint of the examples; empty where the ledger does not hold it.
        classes: names in the order of the labels.
        confusion: ``(K, K)`` true class by predicted class in the worst case; robust examples are on the diagonal.
        attacks: in the order in which they ran; "clean" first, for examples misclassified without an attack.
        broken: ``(A, K)`` examples of each class that each attack broke first.
        ids: of all broken examples.
        clean_errors: ids of the examples misclassified without an attack.
        total: number of examples.
    """

    data: str
    classes: tuple[str, ...]
    confusion: Counts
    attacks: tuple[str, ...]
    broken: Counts
    ids: frozenset[int]
    clean_errors: frozenset[int]
    total: int

    @property
    def has_few_classes(self) -> bool:
        """Return whether a table of all pairs of classes is readable."""
        return len(self.classes) <= MANY_CLASSES

    @property
    def largest_confusion(self) -> int:
        """Number of examples of the most frequent confusion."""
        return int((self.confusion - np.diag(np.diag(self.confusion))).max(initial=0))

    @property
    def confusions(self) -> list[Confusion]:
        """The most frequent confusions, in decreasing order."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        sizes = self.confusion.sum(axis=1)
        pairs = [(int(label), int(predicted)) for label, predicted in np.argwhere(wrong)]
        ordered = sorted(pairs, key=lambda pair: (-wrong[pair], pair))
        return [
            Confusion(self.classes[t], self.classes[p], int(wrong[t, p]), float(wrong[t, p] / sizes[t]))
            for t, p in ordered[:LISTED]
        ]

    @property
    def broken_classes(self) -> list[tuple[str, list[tuple[str, int]]]]:
        """For each attack, the classes of which it broke most examples, with their numbers."""
        listed = []
        for name, row in zip(self.attacks, self.broken, strict=True):
            order = [int(k) for k in np.argsort(-row, kind="stable") if row[k]]
            listed.append((name, [(self.classes[k], int(row[k])) for k in order[:LISTED]]))
        return listed


def read(file: Path, classes: Sequence[str] = ()) -> LedgerSummary | None:
    """Read a ledger; return None where there is none, or where its rows do not hold predicted classes.

    Args:
        file: ``ledger.jsonl`` of an evaluation.
        classes: names of the classes; a label beyond them is named by its number.

    Returns:
        The summary, or None.

    Raises:
        RunError: a line is damaged.
    """
    ledger = read_ledger(file)
    if not ledger.rows or not all(_is_complete(row) for row in ledger.rows):
        return None
    return summarize(ledger.rows, classes, data=str(ledger.header.get("data", "")))


def lowest_scores(file: Path) -> dict[int, float]:
    """Return the lowest score of each example over the attacks, by id; nothing where there is no ledger.

    Args:
        file: ``ledger.jsonl`` of an evaluation of another task than classification.

    Raises:
        RunError: a line is damaged.
    """
    return {i: score_of(row) for i, row in worst_rows(read_ledger(file).rows).items()}


def summarize(rows: Iterable[Mapping[str, Any]], classes: Sequence[str] = (), data: str = "") -> LedgerSummary:
    """Summarize the rows of a ledger.

    Args:
        rows: one for each example and attack, in the order of the attacks: ``attack, id, label, predicted, broken``.
        classes: names of the classes.
        data: fingerprint of the examples.

    Returns:
        The summary.

    Example:
        >>> clean = {"attack": "clean", "label": 0, "predicted": 0, "broken": False}
        >>> worst = {"attack": "pgd", "id": 1, "label": 0, "predicted": 1, "broken": True}
        >>> summarize([clean | {"id": 0}, clean | {"id": 1}, worst]).confusion.tolist()
        [[1, 1], [0, 0]]
    """
    labels: dict[int, int] = {}
    worst: dict[int, tuple[str, int]] = {}  # id -> the attack that broke it first, and the predicted class
    attacks: dict[str, None] = {}
    for row in rows:
        labels[row["id"]] = row["label"]
        attacks.setdefault(row["attack"])
        if row["broken"]:
            worst.setdefault(row["id"], (row["attack"], row["predicted"]))
    largest = max([len(classes) - 1, *labels.values(), *(predicted for _, predicted in worst.values())])
    names = tuple(classes[k] if k < len(classes) else str(k) for k in range(largest + 1))
    confusion, broken = _count(labels, worst, list(attacks), len(names))
    clean = frozenset(example for example, (attack, _) in worst.items() if attack == CLEAN)
    return LedgerSummary(data, names, confusion, tuple(attacks), broken, frozenset(worst), clean, len(labels))


def _count(
    labels: Mapping[int, int], worst: Mapping[int, tuple[str, int]], attacks: Sequence[str], classes: int
) -> tuple[Counts, Counts]:
    """Return the confusion matrix ``(K, K)`` and the broken examples of each attack and class ``(A, K)``."""
    confusion = np.zeros((classes, classes), np.int64)
    broken = np.zeros((len(attacks), classes), np.int64)
    place = {name: k for k, name in enumerate(attacks)}
    for example, label in labels.items():
        name, predicted = worst.get(example, ("", label))
        confusion[label, predicted] += 1
        if name:
            broken[place[name], label] += 1
    return confusion, broken


def _is_complete(row: Mapping[str, Any]) -> bool:
    """Return whether a row holds every key, with labels that are whole numbers of a plausible size."""
    typed = all(isinstance(row.get(key), kind) for key, kind in _KEYS.items())
    return typed and all(0 <= row[key] < _LARGEST_LABEL for key in ("label", "predicted"))

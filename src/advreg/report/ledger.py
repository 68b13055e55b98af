"""What the rows of a ledger tell beyond the figures: who is taken for whom under attack, and which attack broke which class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advreg.results.ledger_rows import CLEAN as CLEAN
from advreg.results.reading import read_ledger

MANY = 12  # classes beyond which a table of all pairs is no picture any more
TOP = 12
_NEEDED = {"attack": str, "id": int, "label": int, "predicted": int, "broken": bool}

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Mistake:
    """One class taken for another by the model in the worst case that was found."""

    label: str
    seen_as: str
    count: int
    share: float


@dataclass(frozen=True, eq=False)
class Fallen:
    """How examples fell.

    Attributes:
        data: what examples the rows belong to; empty where the ledger does not say.
        classes: names, in the order of the labels.
        confusion: (K, K) true class by the class that was seen in the worst case; what nothing broke is on the diagonal.
        attacks: in the order in which they ran; "clean" first for what was wrong before any attack.
        broken: (A, K) examples of each class that each attack broke first.
        ids: of all examples that are broken.
        total: examples in all.
    """

    data: str
    classes: tuple[str, ...]
    confusion: Counts
    attacks: tuple[str, ...]
    broken: Counts
    ids: frozenset[int]
    total: int

    @property
    def few(self) -> bool:
        """Whether there are few enough classes for a table of all pairs."""
        return len(self.classes) <= MANY

    @property
    def most(self) -> int:
        """How often the commonest confusion happened."""
        return int((self.confusion - np.diag(np.diag(self.confusion))).max(initial=0))

    @property
    def mistakes(self) -> list[Mistake]:
        """The commonest confusions, most frequent first."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        of_class = self.confusion.sum(axis=1)
        pairs = np.argwhere(wrong)
        ordered = sorted(((int(t), int(s)) for t, s in pairs), key=lambda pair: (-wrong[pair], pair))
        return [
            Mistake(self.classes[t], self.classes[s], int(wrong[t, s]), float(wrong[t, s] / of_class[t]))
            for t, s in ordered[:TOP]
        ]

    @property
    def weakest(self) -> list[tuple[str, list[tuple[str, int]]]]:
        """For each attack, the classes that it broke most often."""
        found = []
        for name, row in zip(self.attacks, self.broken, strict=True):
            order = [int(k) for k in np.argsort(-row, kind="stable") if row[k]]
            found.append((name, [(self.classes[k], int(row[k])) for k in order[:TOP]]))
        return found


def read(file: Path, classes: Sequence[str] = ()) -> Fallen | None:
    """Read a ledger; None where there is none, or where its rows do not say what was seen.

    Args:
        file: ``ledger.jsonl`` of an evaluation.
        classes: names of the classes; labels beyond them go by their number.

    Raises:
        RunError: a line is damaged.
    """
    ledger = read_ledger(file)
    if not ledger.rows or not all(_told(row) for row in ledger.rows):
        return None
    return fallen(ledger.rows, classes, data=str(ledger.header.get("data", "")))


def fallen(rows: Iterable[Mapping[str, object]], classes: Sequence[str] = (), data: str = "") -> Fallen:
    """Count how examples fell.

    Args:
        rows: one for each example and attack: ``attack, id, label, predicted, broken``.
        classes: names of the classes.
        data: fingerprint of the examples.

    Example:
        >>> clean = {"attack": "clean", "label": 0, "predicted": 0, "broken": False}
        >>> worst = {"attack": "pgd", "id": 1, "label": 0, "predicted": 1, "broken": True}
        >>> fallen([clean | {"id": 0}, clean | {"id": 1}, worst]).confusion.tolist()
        [[1, 1], [0, 0]]
    """
    label: dict[int, int] = {}
    worst: dict[int, tuple[str, int]] = {}
    attacks: dict[str, None] = {}
    for row in rows:
        name, example, predicted = str(row["attack"]), int(row["id"]), int(row["predicted"])  # type: ignore[call-overload]
        label[example] = int(row["label"])  # type: ignore[call-overload]
        attacks.setdefault(name)
        if row["broken"]:
            worst.setdefault(example, (name, predicted))
    most = max([len(classes) - 1, *label.values(), *(seen for _, seen in worst.values())])
    confusion, broken = np.zeros((most + 1, most + 1), np.int64), np.zeros((len(attacks), most + 1), np.int64)
    order = {name: place for place, name in enumerate(attacks)}
    for example, true in label.items():
        name, seen = worst.get(example, ("", true))
        confusion[true, seen] += 1
        if name:
            broken[order[name], true] += 1
    names = tuple(classes[k] if k < len(classes) else str(k) for k in range(most + 1))
    return Fallen(data, names, confusion, tuple(attacks), broken, frozenset(worst), len(label))


def _told(row: Mapping[str, object]) -> bool:
    return all(isinstance(row.get(key), kind) for key, kind in _NEEDED.items()) and _natural(row)


def _natural(row: Mapping[str, object]) -> bool:
    return all(0 <= int(row[key]) < 100_000 for key in ("label", "predicted"))  # type: ignore[call-overload]

"""Accuracy under common corruptions as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, repr=False)
class CorruptionAccuracy:
    """Accuracy under each corruption at each severity.

    Attributes:
        n, seed: examples and seed.
        severities: in increasing order, of 1 to 5.
        clean_accuracy: without a corruption.
        accuracy: corruption -> accuracy at each severity.
        forwards: example-forwards.
        seconds: wall time.
    """

    n: int
    seed: int
    severities: tuple[int, ...]
    clean_accuracy: float
    accuracy: dict[str, tuple[float, ...]]
    forwards: int
    seconds: float

    @property
    def mean_accuracy(self) -> float:
        """Mean corruption accuracy: over all corruptions and severities, each counted the same."""
        values = [value for row in self.accuracy.values() for value in row]
        return sum(values) / len(values)

    def record(self) -> dict[str, Any]:
        """Return the figures as written to corruptions.json."""
        rows = [
            {"name": name, "accuracy": list(row), "mean_accuracy": sum(row) / len(row)}
            for name, row in self.accuracy.items()
        ]
        return {
            "schema": "advreg/corruptions@1",
            "n": self.n,
            "seed": self.seed,
            "clean_accuracy": self.clean_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "severities": list(self.severities),
            "corruptions": rows,
            "forwards": self.forwards,
            "seconds": round(self.seconds, 3),
        }

    def __repr__(self) -> str:
        size = f"{len(self.accuracy)} corruptions at {len(self.severities)} severities, n={self.n}"
        return f"CorruptionAccuracy({size}: mean {self.mean_accuracy:.2%}, clean {self.clean_accuracy:.2%})"

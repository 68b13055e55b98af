"""What a report is made of: the contents of a run folder as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advreg.report.ledger import Fallen

Interval = tuple[float, float]
Facts = Mapping[str, object]


@dataclass(frozen=True)
class ThreatFacts:
    """What the attacker may do: a norm, its radius in pixel units, and the valid range of a pixel."""

    norm: str
    eps: float
    box: Interval = (0.0, 1.0)


@dataclass(frozen=True)
class AttackFacts:
    """What one attack of a protocol did to the examples that were still standing when its turn came."""

    name: str
    tried: int
    broken: int
    robust_accuracy: float
    forwards: int | None = None
    backwards: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class ClassFacts:
    """Accuracy on the examples of one class."""

    name: str
    n: int
    clean_accuracy: float
    robust_accuracy: float


@dataclass(frozen=True)
class CurvePointFacts:
    """One point of a robustness curve."""

    eps: float
    robust_accuracy: float
    interval: Interval | None = None


@dataclass(frozen=True)
class CurveFacts:
    """Robust accuracy as the attacker's reach grows."""

    norm: str
    attack: str
    n: int
    points: tuple[CurvePointFacts, ...]


@dataclass(frozen=True, eq=False)
class ExamplesFacts:
    """Attacked images, one row each: pixels (K, C, H, W), everything else (K,)."""

    clean: NDArray[np.float32]
    adversarial: NDArray[np.float32]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    clean_predicted: NDArray[np.int64]
    adversarial_predicted: NDArray[np.int64]
    clean_confidence: NDArray[np.float32]
    adversarial_confidence: NDArray[np.float32]
    broken: NDArray[np.bool_]
    attack: NDArray[np.int64]


@dataclass(frozen=True)
class CheckFacts:
    """One check that an evaluation made by itself, and what it says."""

    name: str
    verdict: str
    says: str
    remedy: str


@dataclass(frozen=True)
class NormFacts:
    """How far each image is from the boundary, as far as attacks could tell: upper bounds, None where nothing was found."""

    norm: str
    distances: tuple[float | None, ...]


@dataclass(frozen=True)
class CorruptionRowFacts:
    """Accuracy under one corruption at each severity, and their mean."""

    name: str
    accuracy: tuple[float, ...]
    mean_accuracy: float


@dataclass(frozen=True)
class CorruptionFacts:
    """Accuracy under common corruptions; ``mean_accuracy`` counts each corruption and severity the same."""

    n: int
    severities: tuple[int, ...]
    clean_accuracy: float
    mean_accuracy: float
    rows: tuple[CorruptionRowFacts, ...]


@dataclass(frozen=True)
class LoosenessFacts:
    """What another protocol broke of the examples that an evaluation counts as robust."""

    by: str
    examples: int
    share: float


@dataclass(frozen=True, eq=False)
class EvaluationFacts:
    """Everything one protocol measured on one model."""

    protocol: str
    threat: ThreatFacts
    n: int
    seed: int
    clean_accuracy: float
    robust_accuracy: float
    clean_interval: Interval | None = None
    interval: Interval | None = None
    attack_success_rate: float | None = None
    attack_success_interval: Interval | None = None
    attacks: tuple[AttackFacts, ...] = ()
    per_class: tuple[ClassFacts, ...] = ()
    forwards: int | None = None
    backwards: int | None = None
    seconds: float | None = None
    verdict: str | None = None
    flags: Facts = field(default_factory=dict)
    checks: tuple[CheckFacts, ...] = ()
    model: Facts = field(default_factory=dict)
    data: Facts = field(default_factory=dict)
    environment: Facts = field(default_factory=dict)
    curve: CurveFacts | None = None
    examples: ExamplesFacts | None = None
    norms: NormFacts | None = None
    corruptions: CorruptionFacts | None = None
    fallen: Fallen | None = None
    looseness: LoosenessFacts | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, as far as the results carry them."""
        names = self.data.get("classes")
        return tuple(str(name) for name in names) if isinstance(names, list) else ()


@dataclass(frozen=True)
class EpochFacts:
    """One finished epoch of training; what was not measured is None."""

    epoch: float
    loss: float | None = None
    train_accuracy: float | None = None
    clean_accuracy: float | None = None
    robust_accuracy: float | None = None
    lr: float | None = None
    eps: float | None = None
    seconds: float | None = None
    examples: float | None = None
    forwards: float | None = None
    backwards: float | None = None
    peak_memory: float | None = None


@dataclass(frozen=True, eq=False)
class RunFacts:
    """A run folder as read: any part may be empty, but not all of them."""

    path: Path
    epochs: tuple[EpochFacts, ...] = ()
    events: tuple[Facts, ...] = ()
    evaluations: tuple[EvaluationFacts, ...] = ()
    config: str | None = None
    model: Facts = field(default_factory=dict)
    environment: Facts = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

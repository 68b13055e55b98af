"""The contents of a run folder as frozen data, from which reports are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advreg.documents import parse_toml
from advreg.published import PublishedFigure, figure_of
from advreg.report.data_words import DataWords, FigureWords, figures_of, words_for
from advreg.report.ledger import LedgerSummary

Interval = tuple[float, float]
"""Low and high end."""
Facts = Mapping[str, object]
"""A JSON object."""


@dataclass(frozen=True)
class ThreatFacts:
    """A threat model: norm, radius in the units of the data, and the lowest and highest valid value of an input.

    ``features`` has hashes of the units and rules of single features, and ``limits`` what they are, for a table. ``kind`` is
    that of the data, which decides on words alone: empty for 8-bit images.
    """

    norm: str
    eps: float
    box: Interval = (0.0, 1.0)
    features: str = ""
    kind: str = field(default="", compare=False)
    limits: Facts = field(default_factory=dict, compare=False)

    @property
    def ratio(self) -> str:
        """The signal-to-noise ratio in dB, as typed; empty where eps is no ratio."""
        is_ratio = self.features.partition("-")[0] == "snr" and self.eps > 0
        return f"{round(-20 * math.log10(self.eps), 6):g}" if is_ratio else ""

    @property
    def words(self) -> DataWords:
        """Nouns for the values and examples."""
        return words_for(self.kind)


@dataclass(frozen=True)
class AttackFacts:
    """One attack of a protocol: the survivors it tried, how many it broke, robust accuracy after it, and its cost."""

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
    certified_accuracy: float | None = None


@dataclass(frozen=True)
class CurveFacts:
    """Robust accuracy at several eps, the mean score under attack in other tasks."""

    norm: str
    attack: str
    n: int
    points: tuple[CurvePointFacts, ...]
    features: str = ""
    task: str = "classes"

    @property
    def figures(self) -> FigureWords:
        """Names of the figures."""
        return figures_of(self.task)


@dataclass(frozen=True, eq=False)
class ExamplesFacts:
    """Attacked inputs, one row each: values ``(K, ...)``, images ``(K, C, H, W)``, everything else ``(K,)``."""

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
    """One check of an evaluation: its verdict, the finding in one sentence, and the remedy."""

    name: str
    verdict: str
    says: str
    remedy: str


@dataclass(frozen=True)
class NormFacts:
    """Upper bounds of each image's distance to the decision boundary; None where no adversarial point was found."""

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
    """Examples that an evaluation counts as robust and another protocol broke: the protocol, their number and share."""

    by: str
    examples: int
    share: float


@dataclass(frozen=True, eq=False)
class EvaluationFacts:
    """Everything that one protocol measured on one model; what is not in its files is None or empty.

    ``scores`` has the lowest score of each example by id in other tasks than classification.
    """

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
    ledger: LedgerSummary | None = None
    looseness: LoosenessFacts | None = None
    task: str = "classes"
    corpus: Facts = field(default_factory=dict)
    scenes: Mapping[str, NDArray[np.generic]] | None = None
    scores: Mapping[int, float] = field(default_factory=dict)

    @property
    def words(self) -> DataWords:
        """Nouns for the values and examples."""
        return self.threat.words

    @property
    def published(self) -> PublishedFigure | None:
        """Published figure of this model under this threat."""
        return figure_of(self.model.get("name"), self.threat.norm, self.threat.eps)

    @property
    def figures(self) -> FigureWords:
        """Names of the figures."""
        return figures_of(self.task)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of a table's features; empty where the results do not hold them."""
        names = self.data.get("columns")
        return tuple(str(name) for name in names) if isinstance(names, list) else ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty where the results do not hold them."""
        names = self.data.get("classes")
        return tuple(str(name) for name in names) if isinstance(names, list) else ()


@dataclass(frozen=True)
class EpochFacts:
    """One finished epoch of training; None for what was not measured."""

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


@dataclass(frozen=True)
class CertificateFacts:
    """Robust accuracy from both sides: proved, and not broken by attacks; ``by_method`` has name, proved and broken.

    ``noise`` is the deviation under which a smoothed model was certified, None for the model itself; ``source`` names the model
    and the examples, which certificates of one curve share.
    """

    protocol: str
    n: int
    certified_accuracy: float
    robust_accuracy: float
    interval: Interval
    open: int
    by_method: tuple[tuple[str, int, int], ...]
    noise: float | None = None
    threat: ThreatFacts | None = None
    source: str = ""


@dataclass(frozen=True, eq=False)
class RunFacts:
    """The contents of a run folder; any part may be empty, but not all of them."""

    path: Path
    epochs: tuple[EpochFacts, ...] = ()
    events: tuple[Facts, ...] = ()
    evaluations: tuple[EvaluationFacts, ...] = ()
    certificates: tuple[CertificateFacts, ...] = ()
    config: str | None = None
    model: Facts = field(default_factory=dict)
    environment: Facts = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def figures(self) -> FigureWords:
        """Names of the figures of training, which follow the section ``[task]`` of run.toml."""
        try:
            section = parse_toml(self.config or "").get("task")
        except ValueError:  # the page shows a damaged file as it is
            section = None
        return figures_of(str(section.get("name", "classes")) if isinstance(section, dict) else "classes")

"""The result of an evaluation: figures with exact intervals, one summary per attack and class, checks and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from advreg.results.checks import Check, Verdict
from advreg.results.notebook import card, ends, percent
from advreg.results.plots import draw_attacks, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from advreg.threat import ThreatModel

SCHEMA = "advreg/results@1"


@dataclass(frozen=True, repr=False)
class AttackSummary:
    """One attack of a protocol.

    Attributes:
        name: of the attack in the ledger.
        tried: survivors of the attacks before it that it was run on.
        broken: examples that it broke.
        robust_accuracy: share of all examples that survive this attack and those before it.
        forwards, backwards: example-forwards and example-backwards spent.
        seconds: wall time.
    """

    name: str
    tried: int
    broken: int
    robust_accuracy: float
    forwards: int
    backwards: int
    seconds: float

    def __repr__(self) -> str:
        return f"AttackSummary({self.name}: broke {self.broken} of {self.tried}, robust {self.robust_accuracy:.2%})"


@dataclass(frozen=True, repr=False)
class ClassSummary:
    """Accuracy on the examples of one class.

    Attributes:
        name: name of the class.
        n: number of its examples.
        clean_accuracy: share classified correctly.
        robust_accuracy: share that no attack broke.
    """

    name: str
    n: int
    clean_accuracy: float
    robust_accuracy: float

    def __repr__(self) -> str:
        return (
            f"ClassSummary({self.name}, n={self.n}: clean {self.clean_accuracy:.2%}, robust {self.robust_accuracy:.2%})"
        )


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The result of an evaluation. Robust accuracy found by attacks is an upper bound: a better attack may lower it.

    Attributes:
        protocol: frozen id, such as ``linf-0.3-quick@1``.
        threat: what the adversary was allowed.
        n: examples evaluated.
        seed: of the random draws.
        clean_accuracy, clean_interval: share classified correctly, and its exact 95% interval.
        robust_accuracy, robust_interval: share that no attack broke (clean errors count as broken), and its exact 95% interval.
        interval: the same as ``robust_interval``.
        attack_success_rate, attack_success_interval: share of the correctly classified examples that some attack broke, and
            its exact 95% interval.
        broken: whether each example is misclassified or was broken, ``(N,)`` booleans.
        by_attack: one summary per attack, in order; each ran on the survivors of the attacks before it.
        per_class: one summary per class.
        forwards, backwards: example-forwards and example-backwards spent, verification included.
        seconds: wall time.
        flags: findings that bear on how far the figures can be trusted.
        checks, verdict: what flags and ledger show at no extra cost: ``"TRUSTED"``, ``"SUSPECT"``, ``"UNRELIABLE"``, or None
            where too few attacks ran to compare; `advreg.diagnose` examines the model itself.
        task: name of the task; in tasks with scores the accuracies are mean scores, with bootstrap intervals.
        scores: each example's lowest score over the attacks, ``(N,)``; None for classes.
        certified_accuracy, certified_interval: share that a certificate proves, which no attack was run on, and its exact 95%
            interval; None without a certificate.
        corpus: figures of the whole data set that are no mean, such as mIoU: ``clean`` and ``robust``, with intervals.
    """

    protocol: str
    threat: ThreatModel
    n: int
    seed: int
    clean_accuracy: float
    clean_interval: tuple[float, float]
    robust_accuracy: float
    interval: tuple[float, float]
    attack_success_rate: float
    attack_success_interval: tuple[float, float]
    broken: Tensor
    by_attack: tuple[AttackSummary, ...]
    per_class: tuple[ClassSummary, ...]
    forwards: int
    backwards: int
    seconds: float
    flags: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    verdict: Verdict | None = None
    task: str = "classes"
    scores: Tensor | None = None
    corpus: Mapping[str, Any] = field(default_factory=dict)
    certified_accuracy: float | None = None
    certified_interval: tuple[float, float] | None = None

    @property
    def robust_interval(self) -> tuple[float, float]:
        """Exact 95% interval of the robust accuracy."""
        return self.interval

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"Evaluation({self.protocol}, n={self.n}: clean {self.clean_accuracy:.2%}, "
            f"robust {self.robust_accuracy:.2%} [{low:.2%}, {high:.2%}]{f', {self.verdict}' if self.verdict else ''})"
        )

    def _limits(self) -> dict[str, Any]:
        """Return units, limits and rules of the columns of a table, for the report."""
        limits, rules = self.threat.limits, self.threat.rules
        shown: dict[str, Any] = {} if limits is None else limits.record()
        return {**shown, **rules.record()} if shown and rules is not None else shown

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw clean accuracy and robust accuracy after each attack, with the 95% interval of the last.

        Args:
            axes: axes of matplotlib; new ones if None.

        Returns:
            The axes; ``axes.figure`` is the figure.
        """
        target = new_axes(0.9 + 0.4 * (1 + len(self.by_attack))) if axes is None else axes
        draw_attacks(target, self.clean_accuracy, self.by_attack, self.interval)
        return target

    def _repr_html_(self) -> str:
        rows = [["clean", str(self.n), "-", percent(self.clean_accuracy), ends(self.clean_interval)]]
        for attack in self.by_attack:
            found = ends(self.interval) if attack is self.by_attack[-1] else ""
            cells = [str(attack.tried), str(attack.broken), percent(attack.robust_accuracy)]
            rows.append([attack.name, *cells, found])
        return card(repr(self), ("attack", "tried", "broken", "accuracy", "95% interval"), rows, self.plot)

    def record(self) -> dict[str, Any]:
        """Return the figures in the form of results.json."""
        eps, box = float(self.threat.eps), list(self.threat.box)
        hidden = ("broken", "threat", "protocol", "task", "scores", "corpus")
        plain = {name: value for name, value in vars(self).items() if name not in hidden}
        if self.certified_accuracy is None:
            plain = {name: value for name, value in plain.items() if not name.startswith("certified_")}
        own = {} if self.task == "classes" else {"task": self.task, "corpus": dict(self.corpus)}
        features: dict[str, Any] = {"features": self.threat.suffix.lstrip("-")} if self.threat.suffix else {}
        if limits := self._limits():
            features["limits"] = limits
        return {
            "schema": SCHEMA,
            "protocol": self.protocol,
            "threat": {"norm": self.threat.norm, "eps": eps, "box": box} | features,
            **plain,
            **own,
            "by_attack": [asdict(attack) for attack in self.by_attack],
            "per_class": [
                {"class": c.name, **{k: v for k, v in asdict(c).items() if k != "name"}} for c in self.per_class
            ],
            "flags": dict(self.flags),
            "verdict": self.verdict,
            "checks": [check.record() for check in self.checks],
        }

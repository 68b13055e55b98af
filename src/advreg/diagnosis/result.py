"""The result of a diagnosis: a verdict, the checks behind it, and the figure that adaptive attacks leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from advreg.results.checks import Check, Verdict, causes, verdict
from advreg.results.notebook import card
from advreg.results.plots import SIGNS, draw_checks, new_axes
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEMA = "advreg/diagnosis@1"


@dataclass(frozen=True)
class DiagnosisProgress:
    """Progress of a diagnosis, reported before each check.

    Attributes:
        check: name of the next check.
        done, total: checks done, and in all.
        robust_accuracy: the figure less what other attacks broke so far; None before there is a figure.
    """

    check: str
    done: int
    total: int
    robust_accuracy: float | None = None


@dataclass(frozen=True, repr=False)
class AdaptiveAttempt:
    """One adaptive attack and what it broke of the examples that survived those before it.

    Attributes:
        means: name of the attack.
        cause: cause that it was chosen for.
        tried: number of examples on which it was run.
        broken: number of these that it broke.
        robust_accuracy: share of all examples that survive it and the attacks before it.
        seconds: wall time.
        failed: reason if it could not be run; else empty.
    """

    means: str
    cause: str
    tried: int
    broken: int
    robust_accuracy: float
    seconds: float
    failed: str = ""

    def __repr__(self) -> str:
        outcome = f"failed: {self.failed}" if self.failed else f"broke {self.broken} of {self.tried}"
        return f"AdaptiveAttempt({self.means} against {self.cause!r}: {outcome}, robust {self.robust_accuracy:.2%})"


@dataclass(frozen=True, repr=False)
class AdaptiveResult:
    """The figure that all adaptive attacks leave, verified on the original model.

    Attributes:
        robust_accuracy, interval: share of the examples that survive, and its exact 95% interval.
        means: name of the attack that broke most; empty if none broke an example.
        attempts: all attacks, in order.
    """

    robust_accuracy: float
    interval: tuple[float, float]
    means: str
    attempts: tuple[AdaptiveAttempt, ...]

    def __repr__(self) -> str:
        low, high = self.interval
        best = f", {self.means} broke most" if self.means else ""
        return f"AdaptiveResult(robust {self.robust_accuracy:.2%} [{low:.2%}, {high:.2%}], {len(self.attempts)} attempts{best})"


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The verdict on a robustness figure, with its checks.

    Attributes:
        claim: name of the figure: ``"pgd-40"``, or the id of a protocol.
        robust_accuracy, interval: the figure itself, and its exact 95% interval.
        clean_accuracy: share classified correctly.
        n: examples in the figure.
        checks: every check, in the order of its group.
        adapted: the figure that adaptive attacks leave; None if they were not run.
        pictures: arrays to draw, see `advreg.diagnosis.loss_surface`.
        seconds: wall time.
    """

    threat: ThreatModel
    claim: str
    n: int
    clean_accuracy: float
    robust_accuracy: float
    interval: tuple[float, float]
    checks: tuple[Check, ...]
    adapted: AdaptiveResult | None = None
    pictures: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """``"UNRELIABLE"`` if a check fails, ``"SUSPECT"`` if one warns, else ``"TRUSTED"``."""
        return verdict(self.checks)

    @property
    def causes(self) -> tuple[str, ...]:
        """Causes of the findings, the most specific first; empty if every check passes."""
        return causes(self.checks)

    def check(self, name: str) -> Check:
        """Return the check of this name.

        Raises:
            KeyError: no check has this name.
        """
        found = next((check for check in self.checks if check.name == name), None)
        if found is None:
            raise KeyError(f"no check {name!r}; there are {', '.join(check.name for check in self.checks)}")
        return found

    def __repr__(self) -> str:
        why = f": {self.causes[0]}" if self.causes else ""
        return f"Diagnosis({self.verdict}{why}; {self.claim} says {self.robust_accuracy:.2%}, n={self.n})"

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw the checks, each with its outcome, what it measured and its limit.

        Args:
            axes: axes of matplotlib; new ones if None.

        Returns:
            The axes; ``axes.figure`` is the figure.
        """
        target = new_axes(0.6 + 0.26 * len(self.checks)) if axes is None else axes
        draw_checks(target, self.checks)
        return target

    def _repr_html_(self) -> str:
        rows = [[SIGNS[check.verdict], check.name, check.says, check.remedy] for check in self.checks]
        return card(repr(self), ("", "check", "finding", "remedy"), rows)

    def record(self) -> dict[str, Any]:
        """Return the diagnosis in the form of diagnosis.json."""
        threat = {"norm": self.threat.norm, "eps": float(self.threat.eps), "box": list(self.threat.box)}
        names = ("claim", "n", "clean_accuracy", "robust_accuracy", "interval", "seconds")
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "causes": list(self.causes),
            "threat": threat,
            **{name: getattr(self, name) for name in names},
            "checks": [check.record() for check in self.checks],
            "adapted": asdict(self.adapted) if self.adapted else None,
            "pictures": dict(self.pictures),
            **self.facts,
        }

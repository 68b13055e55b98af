"""The robustness curve as data: robust accuracy over a grid of eps, with the checks that bear on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from advreg.results.checks import Check, Verdict
from advreg.results.notebook import card, ends, percent
from advreg.results.plots import COLOURS, draw_curve, finish_curve, new_axes
from advreg.score_intervals import score_interval
from advreg.statistics import clopper_pearson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from advreg.threat import Norm


@dataclass(frozen=True, repr=False)
class CurvePoint:
    """Robust accuracy at one eps.

    Attributes:
        eps: radius of the threat model.
        robust_accuracy: share of the examples that survive.
        interval: its exact 95% interval.
        certified_accuracy: share that is proved, where bounds were computed: the lower end.
        certified_interval: its exact 95% interval.
    """

    eps: float
    robust_accuracy: float
    interval: tuple[float, float]
    certified_accuracy: float | None = None
    certified_interval: tuple[float, float] | None = None

    def __repr__(self) -> str:
        low, high = self.interval
        proved = "" if self.certified_accuracy is None else f"proved {self.certified_accuracy:.2%}, "
        return f"CurvePoint(eps {self.eps:g}: {proved}robust {self.robust_accuracy:.2%} [{low:.2%}, {high:.2%}])"

    def record(self) -> dict[str, Any]:
        """Return the point as written to curve.json."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, repr=False)
class Curve:
    """Robust accuracy over eps; it never rises, for a point inside a ball is inside every larger one.

    Attributes:
        norm: of the perturbation.
        attack: what found the points: a protocol's id, or ``"minimum norms"``.
        n, seed: examples and seed.
        points: one for each eps, in increasing order.
        box: lowest and highest valid value of an input.
        checks, verdict: whether the figures can be trusted; see `Evaluation`.
        task: name of the task; in tasks with scores a point is a mean score.
        features: hashes of the units and rules of single features, as in ids; empty without.
    """

    norm: Norm
    attack: str
    n: int
    seed: int
    points: tuple[CurvePoint, ...]
    box: tuple[float, float] = (0.0, 1.0)
    checks: tuple[Check, ...] = ()
    verdict: Verdict | None = None
    task: str = "classes"
    features: str = ""

    def record(self) -> dict[str, Any]:
        """Return the curve as written to curve.json."""
        checks = [check.record() for check in self.checks]
        plain = asdict(replace(self, checks=())) | {"points": [point.record() for point in self.points]}
        record = {"schema": "advreg/curve@1", **plain, "box": list(self.box), "checks": checks}
        plain_values = {"task": "classes", "features": ""}  # left out, as in files of versions without them
        return {key: value for key, value in record.items() if value != plain_values.get(key, ...)}

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw robust accuracy over eps with its 95% band.

        Args:
            axes: axes of matplotlib; new ones if None.

        Returns:
            The axes; ``axes.figure`` is the figure.
        """
        target = new_axes() if axes is None else axes
        draw_curve(target, self.points, self.attack, colour=COLOURS.robust)
        finish_curve(target, self.norm)
        return target

    def _repr_html_(self) -> str:
        rows = [[f"{point.eps:g}", percent(point.robust_accuracy), ends(point.interval)] for point in self.points]
        return card(repr(self), (f"eps ({self.norm})", "robust", "95% interval"), rows, self.plot)

    def __repr__(self) -> str:
        first, last = self.points[0], self.points[-1]
        ends = f"{first.robust_accuracy:.2%} at {first.eps:g} to {last.robust_accuracy:.2%} at {last.eps:g}"
        verdict = f", {self.verdict}" if self.verdict else ""
        return f"Curve({self.norm}, {self.attack}, n={self.n}: {ends}{verdict})"


def curve_points(distances: Tensor, eps: Sequence[float]) -> tuple[CurvePoint, ...]:
    """Return robust accuracy at each eps: the share of examples whose nearest known adversarial point is farther away.

    Args:
        distances: to the nearest point known, ``(N,)``; 0 for a clean error, inf where none is known.
        eps: radii in increasing order.

    Returns:
        The points, in the order of ``eps``.

    Example:
        >>> import torch
        >>> [p.robust_accuracy for p in curve_points(torch.tensor([0.0, 0.2, torch.inf]), [0.0, 0.3])]
        [0.6666666666666666, 0.3333333333333333]
    """
    n = len(distances)
    survivors = [int((distances > radius).sum()) for radius in eps]
    return tuple(
        CurvePoint(radius, k / n, clopper_pearson_interval(k, n)) for radius, k in zip(eps, survivors, strict=True)
    )


def score_point(eps: float, scores: Sequence[float]) -> CurvePoint:
    """Return the point of a task at one eps: the mean score, with an exact interval where scores are 0 or 1.

    Args:
        eps: radius of the threat model.
        scores: each example's lowest score within it.

    Returns:
        The point.

    Example:
        >>> score_point(0.1, [1.0, 0.0]).robust_accuracy
        0.5
    """
    n, mean = len(scores), sum(scores) / len(scores)
    whole = set(scores) <= {0.0, 1.0}
    return CurvePoint(eps, mean, clopper_pearson_interval(int(sum(scores)), n) if whole else score_interval(scores))

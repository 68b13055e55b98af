"""Drawings of results on axes of matplotlib: accuracy over eps, accuracy after each attack, checks and their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from advreg.results.checks import Check

SIZE = (6.2, 3.8)
"""Width and height of a chart in inches."""
MARKED = 25
"""Largest number of points that have markers; more would hide the line."""
SIGNS = {"pass": "✓", "suspect": "!", "fail": "✕", "skipped": "-"}
"""A sign for each outcome, so that outcomes do not differ by colour alone."""

Ends = tuple[float, float]


@dataclass(frozen=True)
class Colours:
    """What each colour means, on every chart and page."""

    clean: str = "#4d5a70"
    robust: str = "#1657c8"
    broken: str = "#c23a0c"
    faint: str = "#56627a"
    surface: str = "#ffffff"


COLOURS = Colours()
"""Colours on white, those of the report."""


class AccuracyAt(Protocol):
    """A point of a curve."""

    @property
    def eps(self) -> float:
        """Radius."""

    @property
    def robust_accuracy(self) -> float:
        """Share of survivors."""

    @property
    def interval(self) -> Ends | None:
        """Its 95% interval."""


class AccuracyAfter(Protocol):
    """An attack of a protocol."""

    @property
    def name(self) -> str:
        """Name in the ledger."""

    @property
    def robust_accuracy(self) -> float:
        """Share that survives it and the attacks before it."""


def new_axes(height: float = SIZE[1]) -> Axes:
    """Return axes of a new figure, which no window shows.

    Args:
        height: of the figure, in inches.

    Returns:
        The axes; ``axes.figure`` is the figure.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(SIZE[0], height), layout="constrained").subplots()


def draw_curve(
    axes: Axes, points: Sequence[AccuracyAt], label: str, *, colour: str, stroke: str = "-", surface: str = "white"
) -> None:
    """Draw robust accuracy over eps with its 95% band.

    Args:
        axes: axes of matplotlib.
        points: in increasing order of eps.
        label: of the line in the legend.
        colour: of the line and the band.
        stroke: style of the line.
        surface: colour inside the markers.
    """
    eps, accuracy = [point.eps for point in points], [point.robust_accuracy for point in points]
    bands = [point.interval or (point.robust_accuracy, point.robust_accuracy) for point in points]
    low, high = zip(*bands, strict=True)
    axes.fill_between(eps, low, high, color=colour, alpha=0.18, linewidth=0)
    marker = "o" if len(eps) <= MARKED else ""
    (line,) = axes.plot(eps, accuracy, stroke, color=colour, label=label, clip_on=False, zorder=3)
    line.set(marker=marker, markersize=5, markerfacecolor=surface, markeredgewidth=1.6)


def draw_attacks(
    axes: Axes, clean: float, attacks: Sequence[AccuracyAfter], ends: Ends | None, colours: Colours = COLOURS
) -> None:
    """Draw clean accuracy and robust accuracy after each attack as bars, the last with its 95% interval.

    Args:
        axes: axes of matplotlib.
        clean: clean accuracy.
        attacks: in the order in which they ran.
        ends: interval of the last robust accuracy.
        colours: of the bars.
    """
    names = ["clean", *(attack.name for attack in attacks)]
    shares = [clean, *(attack.robust_accuracy for attack in attacks)]
    axes.barh(names, shares, color=[colours.clean, *[colours.robust] * len(attacks)], height=0.62)
    for place, share in enumerate(shares):  # beside the bars, where no interval covers it
        axes.annotate(f"{share:.1%}", (1.02, place), color=colours.faint, va="center")
    if ends is not None and attacks:
        span = [[max(0.0, shares[-1] - ends[0])], [max(0.0, ends[1] - shares[-1])]]
        axes.errorbar([shares[-1]], [names[-1]], xerr=span, fmt="none", ecolor=colours.broken, elinewidth=2, capsize=3)
    axes.invert_yaxis()
    _finish(axes, "accuracy")


def draw_checks(axes: Axes, checks: Sequence[Check], colours: Colours = COLOURS) -> None:
    """Draw the checks of a diagnosis: how much of its limit each one reached, with its outcome.

    Args:
        axes: axes of matplotlib.
        checks: in the order of their groups.
        colours: of the outcomes.
    """
    colour = {"pass": colours.robust, "suspect": "#8a6100", "fail": colours.broken}
    for place, check in enumerate(checks):
        tint = colour.get(check.verdict, colours.faint)
        axes.annotate(SIGNS[check.verdict], (0.02, place), color=tint, va="center", fontweight="bold")
        axes.annotate(check.name, (0.07, place), color=tint, va="center")
        axes.annotate(_measured(check), (0.98, place), color=colours.faint, va="center", ha="right")
    axes.set(xlim=(0, 1), ylim=(len(checks) - 0.4, -0.6), xticks=[], yticks=[], frame_on=False)


def _measured(check: Check) -> str:
    if check.verdict == "skipped":
        return "not run"
    return f"{check.measured:.3g}, limit {check.threshold:.3g}" if check.measured is not None else ""


def finish_curve(axes: Axes, norm: str) -> None:
    """Label the axes of a robustness curve.

    Args:
        axes: axes of matplotlib.
        norm: of the perturbation.
    """
    from matplotlib.ticker import PercentFormatter

    axes.set(ylim=(0.0, 1.0), xlabel=f"eps ({norm})", ylabel="robust accuracy")
    axes.set_xlim(left=0.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(frameon=False)


def _finish(axes: Axes, across: str) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.grid(False, axis="y")
    axes.set(xlim=(0.0, 1.14), xticks=[0, 0.25, 0.5, 0.75, 1.0], xlabel=across)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)

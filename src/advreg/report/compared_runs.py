"""`compare`: several runs as one object, with table, exact paired tests, drawing and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.ticker import PercentFormatter

from advreg.errors import RunError
from advreg.report import baseline as baselines
from advreg.report import comparison_table, html, paired_tests, read
from advreg.report.baseline import Change
from advreg.report.comparison_table import ComparisonRow
from advreg.report.facts import RunFacts
from advreg.report.paired_tests import Pair
from advreg.results.notebook import card, ends, percent
from advreg.results.plots import COLOURS, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several runs beside each other.

    Attributes:
        runs: facts of the runs.
        changes: accuracies against those of a baseline; empty without one.
    """

    runs: Sequence[RunFacts]
    changes: Sequence[Change] = ()

    @property
    def rows(self) -> list[ComparisonRow]:
        """A row for each evaluation, by protocol, the most robust first."""
        return comparison_table.rows(self.runs)

    @property
    def pairs(self) -> list[Pair]:
        """Exact paired tests of every two runs on the same examples."""
        return paired_tests.paired_tests(self.runs)

    @property
    def problems(self) -> list[str]:
        """Reasons against a run, one line each; empty where no run is worse than the baseline."""
        return [change.problem for change in self.changes if change.problem]

    def write(self, out: str | Path) -> Path:
        """Write the comparison as one HTML page, and return its path.

        Args:
            out: the file.
        """
        return html.write_page(html.comparison_page(self.runs, self.changes), "", out)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw the robust accuracy of every evaluation with its 95% interval, and clean accuracy as an open mark.

        Args:
            axes: axes of matplotlib; new ones if None.

        Returns:
            The axes; ``axes.figure`` is the figure.
        """
        rows = [row for row in self.rows if row.protocol is not None]
        target = new_axes(0.9 + 0.42 * len(rows)) if axes is None else axes
        for place, row in enumerate(rows):
            clean, robust = row.clean_accuracy or 0.0, row.robust_accuracy or 0.0
            target.plot(row.interval or (robust, robust), (place, place), color=COLOURS.robust, alpha=0.3, linewidth=6)
            target.plot([robust], [place], "o", color=COLOURS.robust)
            target.plot([clean], [place], "o", color=COLOURS.clean, markerfacecolor="none")
        target.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xlabel="robust accuracy; clean accuracy as an open mark")
        target.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        target.set_yticks(range(len(rows)), [f"{row.run}\n{row.protocol}" for row in rows])
        return target

    def _repr_html_(self) -> str:
        cells = [
            [
                row.run,
                row.protocol or "-",
                percent(row.clean_accuracy),
                percent(row.robust_accuracy),
                ends(row.interval),
            ]
            for row in self.rows
        ]
        columns = ("run", "protocol", "clean", "robust", "95% interval")
        return card(repr(self), columns, cells, self.plot if any(row.protocol for row in self.rows) else None)

    def __repr__(self) -> str:
        worse = f", {len(self.problems)} worse than the baseline" if self.changes else ""
        return f"Comparison({', '.join(run.name for run in self.runs)}: {len(self.rows)} rows{worse})"


def compare(*runs: str | Path, baseline: str | Path | None = None) -> Comparison:
    """Compare runs, and test each against a baseline on the same examples (exact one-sided McNemar tests, Holm).

    Args:
        runs: run folders.
        baseline: a run folder, or the name of a stored baseline.

    Returns:
        The comparison; ``problems`` is empty where no run is worse.

    Raises:
        RunError: no runs, a folder that is not a run folder, or a baseline of other examples.

    Example:
        >>> compare()
        Traceback (most recent call last):
        advreg.errors.RunError: no runs to compare; give at least one run folder
    """
    if not runs:
        raise RunError("no runs to compare; give at least one run folder")
    facts = [read.run(run) for run in runs]
    return Comparison(facts, [] if baseline is None else baselines.changes(facts, baselines.find(str(baseline))))

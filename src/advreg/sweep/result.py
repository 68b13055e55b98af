"""`Sweep`: the result of a sweep, read from ``sweep.json``: table, plot, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advreg.results.notebook import card, ends, percent
from advreg.runs import RunFolder
from advreg.runs.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "sweep.json"
_COLUMNS = (
    "name",
    "seed",
    "state",
    "clean_accuracy",
    "robust_accuracy",
    "n",
    "forwards",
    "backwards",
    "processor_seconds",
)


@dataclass(frozen=True)
class Sweep:
    """The trainings of a sweep and what follows from them.

    Attributes:
        path: folder of the sweep.
        record: the content of ``sweep.json``.
    """

    path: Path
    record: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Sweep:
        """Read the sweep in a folder.

        Args:
            path: folder of the sweep.

        Raises:
            RunError: there is none.
        """
        folder = RunFolder.open(path)
        return cls(folder.path, folder.read_json(FILE))

    @property
    def settings(self) -> list[dict[str, Any]]:
        """Settings with their means over seeds; the plain network has an empty ``setting``."""
        return list(self.record["settings"])

    @property
    def frontier(self) -> list[dict[str, Any]]:
        """Settings that no other one beats in clean and robust accuracy at once."""
        return [self.settings[k] for k in self.record["frontier"]]

    @property
    def recommended(self) -> dict[str, Any] | None:
        """The setting of the highest robust accuracy within the budget; None where no adversarial one is within it."""
        index = self.record["recommended"]
        return None if index is None else self.settings[index]

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return a line for each training as CSV, with a column for each key.

        Args:
            path: a file to write too.

        Returns:
            The text.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*self.record["keys"], *_COLUMNS])
        for row in self.record["rows"]:
            writer.writerow(
                [row["setting"].get(key, "") for key in self.record["keys"]] + [row[name] for name in _COLUMNS]
            )
        if path is not None:
            write_atomic(Path(path), text.getvalue())
        return text.getvalue()

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw robust against clean accuracy, with 95% intervals, the frontier and the recommended setting.

        Args:
            axes: axes of matplotlib; new ones if None.

        Returns:
            The axes.
        """
        from matplotlib.figure import Figure

        from advreg.report.sweep_chart import draw_trade_off

        target = Figure(figsize=(7.4, 4.9), layout="constrained").subplots() if axes is None else axes
        draw_trade_off(target, self.record)
        return target

    def _repr_html_(self) -> str:
        from advreg.report.sweep_chart import label_of, measured_settings

        columns = ("clean_accuracy", "robust_accuracy")
        rows = [
            [
                label_of(each),
                *(f"{percent(each[key]['value'])} ({ends(tuple(each[key]['interval']))})" for key in columns),
            ]
            for each in measured_settings(self.record)
        ]
        title = f"Sweep at {self.record['threat']}"
        return card(title, ("setting", "clean", "robust"), rows, self.plot if rows else None)

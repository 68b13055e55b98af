"""A local leaderboard: every evaluated run under a folder, ranked within one protocol, data set, number and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from advreg.errors import AdvregError, RunError
from advreg.report import comparison_table, html, read
from advreg.report.comparison_table import ComparisonRow


@dataclass(frozen=True)
class Place:
    """A row of a leaderboard.

    Attributes:
        rank: 1 for the most robust; equal accuracies share a rank. None for figures that are UNRELIABLE.
        row: the evaluation.
        near_best: whether its interval reaches the accuracy of the first, so that their order may be chance.
    """

    rank: int | None
    row: ComparisonRow
    near_best: bool


@dataclass(frozen=True)
class Group:
    """Evaluations that may be ranked against each other: one protocol id, data set, number of examples and seed."""

    protocol: str
    data: str
    n: int
    seed: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Leaderboard:
    """The groups of a folder, those with most runs first, and folders that could not be read, with the reason."""

    folder: Path
    groups: tuple[Group, ...]
    left_out: tuple[tuple[str, str], ...]


def leaderboard(folder: Path | str) -> Leaderboard:
    """Return the leaderboard of a folder and everything below it.

    Args:
        folder: holds run folders at any depth.

    Returns:
        The leaderboard.

    Raises:
        RunError: no folder, or no evaluated run in it.
    """
    path = Path(folder)
    if not path.is_dir():
        raise RunError(f"no folder at {path}; give one that holds run folders")
    places = sorted({file.parents[2] for file in path.glob("**/evaluation/*/results.json")})
    runs, left_out = [], []
    for place in places:
        try:
            runs.append(read.run(place))
        except AdvregError as error:
            left_out.append((str(place.relative_to(path)), str(error)))
    if not runs:
        reason = f": {left_out[0][1]}" if left_out else ""
        raise RunError(f"{path} holds no evaluated run{reason}; run advreg evaluate RUN first")
    return Leaderboard(path, rank(comparison_table.rows(runs)), tuple(left_out))


def rank(rows: Sequence[ComparisonRow]) -> tuple[Group, ...]:
    """Return rows in groups that may be compared, each ranked by robust accuracy.

    Args:
        rows: evaluations.

    Returns:
        The groups, those with most rows first.

    Example:
        >>> one = ComparisonRow("a", "linf-0.1-quick@2", n=10, seed=0, data="d", robust_accuracy=0.5)
        >>> (group,) = rank([one, one])
        >>> [place.rank for place in group.places]
        [1, 1]
    """
    measured = sorted((row for row in rows if row.protocol is not None), key=_identity)
    groups = [_group(list(members)) for _, members in groupby(measured, key=_identity)]
    return tuple(sorted(groups, key=lambda group: (-len(group.places), group.protocol, group.data)))


def _identity(row: ComparisonRow) -> tuple[str, str, int, int]:
    return row.protocol or "", row.data or "", row.n or 0, row.seed or 0


def _group(rows: Sequence[ComparisonRow]) -> Group:
    ranked = sorted((row for row in rows if row.verdict != "UNRELIABLE"), key=lambda row: (-_robust(row), row.run))
    best = _robust(ranked[0]) if ranked else 0.0
    places = [
        Place(1 + sum(_robust(other) > _robust(row) for other in ranked), row, _reaches(row, best)) for row in ranked
    ]
    places += [Place(None, row, False) for row in rows if row.verdict == "UNRELIABLE"]
    return Group(*_identity(rows[0]), tuple(places))


def _reaches(row: ComparisonRow, best: float) -> bool:
    """Return whether the interval of a row reaches the accuracy of the first."""
    return row.interval is not None and row.interval[1] >= best


def _robust(row: ComparisonRow) -> float:
    return row.robust_accuracy or 0.0


def write_leaderboard(found: Leaderboard, out: Path | str | None = None) -> Path:
    """Write a leaderboard as one self-contained HTML page.

    Args:
        found: the leaderboard.
        out: the file; ``leaderboard.html`` in its folder if None.

    Returns:
        The path of the page.
    """
    page = html.render("leaderboard.html.j2", board=found)
    return html.write_page(page, found.folder, found.folder / "leaderboard.html" if out is None else out)

"""The section of the report about a diagnosis: checks, adaptive attacks and charts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from advreg.errors import RunError
from advreg.report import read
from advreg.report.facts import Interval
from advreg.report.record import Record
from advreg.report.svg import BROKEN, CLEAN, FAINT, ROBUST, drawing, inline

SIZE = (6.2, 2.9)
"""Width and height of a chart in inches."""
GROUPS = {
    "A": "Symptoms",
    "B": "Convergence and hygiene",
    "C": "Flags",
    "D": "Indicators of attack failure",
    "E": "Binarisation",
    "F": "Numerics",
    "G": "Training",
}


@dataclass(frozen=True)
class CheckRow:
    """One check as the page shows it; every field is text."""

    group: str
    name: str
    verdict: str
    measured: str
    says: str
    cause: str
    remedy: str
    link: str


@dataclass(frozen=True)
class AttemptRow:
    """One adaptive attack as the page shows it."""

    means: str
    tried: int
    broken: int
    robust_accuracy: float


@dataclass(frozen=True)
class Drawing:
    """A chart with its heading and a caption that explains how to read it."""

    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class DiagnosisSection:
    """Everything that the section shows."""

    verdict: str
    claim: str
    n: int
    robust_accuracy: float
    interval: Interval | None
    causes: Sequence[str]
    checks: Sequence[CheckRow]
    adapted: float | None
    means: str
    attempts: Sequence[AttemptRow]
    drawings: Sequence[Drawing]


def section(run: Path | str) -> DiagnosisSection | None:
    """Read and draw ``diagnosis.json`` of a run folder; return None where there is none.

    Args:
        run: a run folder.

    Returns:
        The section, or None.

    Raises:
        RunError: the file is damaged.
    """
    record = read.diagnosis(run)
    if record is None:
        return None
    adapted = record.record("adapted") if record.has("adapted") else None
    causes = record.values.get("causes")
    return DiagnosisSection(
        verdict=record.text("verdict"),
        claim=record.text("claim"),
        n=record.count("n"),
        robust_accuracy=record.share("robust_accuracy"),
        interval=record.interval_or_none("interval"),
        causes=[str(cause) for cause in causes] if isinstance(causes, list) else [],
        checks=sorted((_check(row) for row in record.rows("checks")), key=_worst_first),
        adapted=adapted.share("robust_accuracy") if adapted else None,
        means=str(adapted.values.get("means", "")) if adapted else "",
        attempts=[_attempt(row) for row in adapted.rows("attempts")] if adapted else [],
        drawings=drawings(Record(record.facts("pictures"), record.file)),
    )


def _check(row: Record) -> CheckRow:
    texts = [str(row.values.get(key) or "") for key in ("says", "cause", "remedy", "link")]
    return CheckRow(row.text("group"), row.text("name"), row.text("verdict"), _measurement(row), *texts)


def _measurement(row: Record) -> str:
    value, ends = row.number_or_none("measured"), row.values.get("interval")
    if value is None:
        return "-"
    if not ends:
        return f"{value:.3g}"
    low, high = row.pair("interval")
    return f"{value:.2%} [{low:.2%}, {high:.2%}]"


def _worst_first(row: CheckRow) -> tuple[int, str, str]:
    order = ("fail", "suspect", "pass", "skipped")
    return (order.index(row.verdict) if row.verdict in order else len(order)), row.group, row.name


def _attempt(row: Record) -> AttemptRow:
    return AttemptRow(row.text("means"), row.count("tried"), row.count("broken"), row.share("robust_accuracy"))


def drawings(pictures: Record) -> list[Drawing]:
    """Return a chart for each array that the diagnosis holds.

    Args:
        pictures: the section ``pictures`` of the diagnosis.

    Returns:
        The charts.

    Raises:
        RunError: an array is damaged.
    """
    try:
        return [drawing for key, draw in _DRAWN.items() if pictures.has(key) for drawing in draw(pictures)]
    except ValueError as error:  # of matplotlib: arrays of different lengths
        raise RunError(f"{pictures.file}: its arrays do not fit each other ({error}); diagnose again") from error


def numbers(record: Record, key: str) -> list[float]:
    """Return a list of finite numbers.

    Args:
        record: the object that holds the list.
        key: its key.

    Returns:
        The numbers.

    Raises:
        RunError: the key holds anything else.
    """
    values = record.values.get(key)
    if not isinstance(values, list) or not values or not all(_is_number(v) for v in values):
        raise record.damaged(key, "a list of finite numbers")
    return [float(v) for v in values]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _histogram(key: str, title: str, across: str, caption: str, share: str = "") -> Callable[[Record], list[Drawing]]:
    def draw(pictures: Record) -> list[Drawing]:
        record = pictures.record(key)
        edges, counts = numbers(record, "edges"), numbers(record, "counts")
        if len(edges) != len(counts) + 1:
            raise record.damaged("edges", "one number more than counts")
        zero = f" {record.share(share):.1%} of the examples have a gradient of exactly zero." if share else ""
        with drawing():
            figure = Figure(figsize=SIZE, layout="constrained")
            axes = figure.subplots()
            widths = [b - a for a, b in pairwise(edges)]
            axes.bar(edges[:-1], counts, widths, align="edge", color=ROBUST, alpha=0.75, linewidth=0)
            axes.set_xlabel(across)
            axes.set_ylabel("examples")
        return [_drawing(figure, key, title, caption + zero)]

    return draw


def _drawing(figure: Figure, key: str, title: str, caption: str) -> Drawing:
    name = f"diagnosis-{key}".replace("_", "-")
    return Drawing(title, Markup(inline(figure, name, title, caption)), caption)


def _iterations(pictures: Record) -> list[Drawing]:
    record = pictures.record("iterations")
    low, middle, high = (numbers(record, key) for key in ("low", "median", "high"))
    title = "Loss at each step of PGD"
    caption = "Median and quartiles: an attack that has converged ends in a plateau."
    with drawing():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        steps = range(len(middle))
        axes.fill_between(steps, low, high, color=BROKEN, alpha=0.18, linewidth=0)
        axes.plot(steps, middle, color=BROKEN)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
    return [_drawing(figure, "iterations", title, caption)]


def _effort(pictures: Record) -> list[Drawing]:
    kinds = [key for key in ("eps", "steps", "restarts") if pictures.has(key)]
    title = "Accuracy at other eps, steps and restarts"
    caption = "Accuracy should fall to zero as eps grows, and settle as steps and restarts grow."
    with drawing():
        figure = Figure(figsize=(6.2, 2.6), layout="constrained")
        places = _row(figure, len(kinds))
        places[0].set_ylabel("accuracy")
        for axes, key in zip(places, kinds, strict=True):
            rows = list(pictures.rows(key))
            axes.plot([row.number(key) for row in rows], [row.share("accuracy") for row in rows], "o-", color=ROBUST)
            axes.set_ylim(0.0, 1.0)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.set_xlabel(key)
    return [_drawing(figure, "effort", title, caption)]


def _row(figure: Figure, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def _lines(pictures: Record) -> list[Drawing]:
    rows = list(pictures.rows("lines"))
    title = "Margin along the direction of the attack and a random direction"
    caption = "1 is the whole change of the attack; above the line the example is misclassified. "
    caption += "Steps or a flat line leave gradient attacks without a direction."
    with drawing():
        figure = Figure(figsize=(6.2, 2.6), layout="constrained")
        for axes, row in zip(_row(figure, len(rows)), rows, strict=True):
            t = numbers(row, "t")
            axes.axhline(0.0, color=FAINT, linewidth=1)
            axes.plot(t, numbers(row, "attack"), color=BROKEN, label="attack")
            axes.plot(t, numbers(row, "random"), "--", color=CLEAN, label="random")
            axes.set_xlabel(f"example {row.count('id')}")
        axes.legend(loc="best")
    return [_drawing(figure, "lines", title, caption)]


def _surfaces(pictures: Record) -> list[Drawing]:
    rows = list(pictures.rows("surfaces"))
    title = "Margin around examples"
    caption = "Horizontal: the change of the attack; vertical: a random direction; the shaded side is misclassified."
    with drawing():
        figure = Figure(figsize=(6.2, 2.4), layout="constrained")
        for axes, row in zip(_row(figure, len(rows)), rows, strict=True):
            _surface(axes, row)
    return [_drawing(figure, "surfaces", title, caption)]


def _surface(axes: Axes, row: Record) -> None:
    t, lines = numbers(row, "t"), row.values.get("margin")
    z = [numbers(Record({"row": line}, row.file), "row") for line in lines] if isinstance(lines, list) else []
    if len(z) != len(t) or any(len(line) != len(t) for line in z):
        raise row.damaged("margin", f"{len(t)} rows of {len(t)} numbers")
    low, high = min(map(min, z)), max(map(max, z))
    axes.contourf(t, t, z, levels=[min(low, 0.0) - 1, 0.0, max(high, 0.0) + 1], colors=[ROBUST, BROKEN], alpha=0.18)
    inner = [low + (high - low) * k / 8 for k in range(1, 8)] if high > low else []
    if inner:
        axes.contour(t, t, z, levels=inner, colors=[FAINT], linewidths=0.8, linestyles="solid")
    axes.plot([0.0], [0.0], "o", color=CLEAN, markersize=5)
    axes.plot([1.0], [0.0], "x", color=BROKEN, markersize=6)
    axes.set_xlabel(f"example {row.count('id')}")
    axes.grid(visible=False)


_DRAWN: dict[str, Callable[[Record], list[Drawing]]] = {
    "gradient_norms": _histogram(
        "gradient_norms",
        "Lengths of the gradients",
        "log10 of the gradient's length (box of width 1)",
        "Attacks fail where gradients are zero or differ much in length.",
        share="zero",
    ),
    "cosines": _histogram(
        "cosines",
        "Gradients of neighbours",
        "cosine between gradients a tenth of eps apart",
        "Near 1 the gradient holds nearby; near 0 gradients change from point to point.",
    ),
    "iterations": _iterations,
    "eps": _effort,
    "lines": _lines,
    "surfaces": _surfaces,
}

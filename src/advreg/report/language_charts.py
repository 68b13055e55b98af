"""The charts of a language sweep: attack success against over-refusal, and every metric by adversarial share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from advreg.report.language_tables import metric_at
from advreg.report.svg import BROKEN, FAINT, INK, SERIES, SURFACE, drawing, inline

Row = Mapping[str, Any]
STROKES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
PANELS = (
    ("attack success", ("attack_success", "at_least_one")),
    ("attack success, soft prompt", ("attack_success", "soft_prompt")),
    ("over-refusal", ("over_refusal",)),
    ("instructions followed", ("instructions", "strict")),
    ("facts, best of two", ("factual", "two_choice")),
    ("nats a token, reference responses", ("helpfulness", "proxies", "answer_nll")),
)
"""Metrics drawn by adversarial share; the last is no share and has its own scale."""


def trade_off(sweep: Row, name: str) -> str:
    """Draw attack success against over-refusal: a line for each learning rate, and other adapter scales as small points.

    Args:
        sweep: the content of sweep.json.
        name: id of the chart in the page.

    Returns:
        Inline SVG.
    """
    rows = completed_settings(sweep)
    with drawing():
        figure = Figure(figsize=(7.4, 4.9), layout="constrained")
        axes = figure.subplots()
        limit = sweep["budget"]["over_refusal"]
        axes.axvline(limit, color=FAINT, linewidth=1, linestyle=(0, (2, 3)), zorder=1, label=f"budget {limit:.0%}")
        taken: list[tuple[float, float, int]] = []
        for k, (lr, line) in enumerate(_group_by_rate(rows).items()):
            _draw_line(axes, line, f"rate {lr:g}", k)
            _label_shares(axes, line, SERIES[k % len(SERIES)], taken)
        _draw_point(axes, sweep["base"], INK, "D", "before training")
        _draw_choice(axes, sweep)
        axes.set(xlabel="over-refusal: share of safe prompts", ylabel="attack success: share of harmful requests")
        axes.set(ylim=(-0.02, 1.16), yticks=[k / 5 for k in range(6)])  # labels of the points at the top lie above them
        axes.set_xlim(left=-0.015)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.3, ncols=3)
    return inline(figure, name, "Attack success against over-refusal", _describe_chart(sweep))


def by_share(sweep: Row, name: str) -> str:
    """Draw every metric by adversarial share, with 95% intervals as bands and the base model as a dashed line.

    Args:
        sweep: the content of sweep.json.
        name: id of the chart in the page.

    Returns:
        Inline SVG; an empty text where no metric was measured.
    """
    rows = completed_settings(sweep)
    panels = [panel for panel in PANELS if any(metric_at(row["results"], panel[1]) for row in rows)]
    if not panels:
        return ""
    with drawing():
        deep = -(-len(panels) // 2)
        figure = Figure(figsize=(7.4, 2.3 * deep + 0.5), layout="constrained")
        grid = figure.subplots(deep, 2, squeeze=False).flatten()
        for axes, (title, path) in zip(grid, panels, strict=False):
            _draw_panel(axes, rows, sweep["base"], title, path)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return inline(figure, name, "Every metric by adversarial share", _describe_chart(sweep))


def completed_settings(sweep: Row) -> list[Row]:
    """Return the settings that have results.

    Args:
        sweep: the content of sweep.json.

    Example:
        >>> completed_settings({"settings": [{"results": None}, {"results": {"n": {}}}]})
        [{'results': {'n': {}}}]
    """
    return [row for row in sweep["settings"] if row["results"]]


def _group_by_rate(rows: Sequence[Row]) -> dict[float, list[Row]]:
    """Return learning rate -> its settings in order of the adversarial share."""
    rates = sorted({row["lr"] for row in rows})
    return {lr: sorted((row for row in rows if row["lr"] == lr), key=lambda row: row["mix"]) for lr in rates}


def _describe_chart(sweep: Row) -> str:
    """Return the values of the chart as text, for screen readers."""
    settings = [
        f"{row['mix']:.0%} at rate {row['lr']:g}: {_describe_results(row['results'])}."
        for row in completed_settings(sweep)
    ]
    return " ".join([f"Before training: {_describe_results(sweep['base'])}.", *settings])


def _describe_results(results: Row) -> str:
    success, refusal = results["axes"]["attack_success"]["at_least_one"], results["axes"]["over_refusal"]
    return f"attack success {success['value']:.0%}, over-refusal {refusal['value']:.0%}"


def _draw_line(axes: Axes, line: Sequence[Row], label: str, k: int) -> None:
    colour = SERIES[k % len(SERIES)]
    for row in line:
        ends = [(at["over_refusal"]["value"], at["attack_success"]["value"]) for at in row["dial"]]
        if len(ends) > 1:
            axes.plot(*zip(*ends, strict=True), ".:", color=colour, alpha=0.45, linewidth=1, markersize=5, zorder=2)
        _draw_point(axes, row["results"], colour, MARKERS[k % len(MARKERS)], None)
    points = [_coordinates(row["results"]) for row in line]
    axes.plot(*zip(*points, strict=True), STROKES[k % len(STROKES)], color=colour, label=label, zorder=3)


def _label_shares(axes: Axes, line: Sequence[Row], colour: str, taken: list[tuple[float, float, int]]) -> None:
    """Label points with their shares, away from the labels of other rates; points that coincide share a label."""
    for (x, y), shares in _merge_near_points(line):
        near = {shift for a, b, shift in taken if abs(a - x) < 0.2 and abs(b - y) < 0.12}
        shift = next((shift for shift in (5, 18, -14, 31, -27, -40) if shift not in near), 5)
        taken.append((x, y, shift))
        text = ", ".join(f"{share:.0%}" for share in shares)
        axes.annotate(text, (x, y), xytext=(8, shift), textcoords="offset points", color=colour, zorder=6)


def _merge_near_points(line: Sequence[Row]) -> list[tuple[tuple[float, float], list[float]]]:
    """Return the distinct points of a line, each with the shares of all points that are too near to distinguish."""
    places: list[tuple[tuple[float, float], list[float]]] = []
    for row in line:
        x, y = _coordinates(row["results"])
        same = (shares for (a, b), shares in places if abs(a - x) < 0.03 and abs(b - y) < 0.05)
        shares = next(same, None)
        if shares is None:
            places.append(((x, y), shares := []))
        if row["mix"] not in shares:
            shares.append(row["mix"])
    return places


def _coordinates(results: Row) -> tuple[float, float]:
    return results["axes"]["over_refusal"]["value"], results["axes"]["attack_success"]["at_least_one"]["value"]


def _draw_point(axes: Axes, results: Row, colour: str, marker: str, label: str | None) -> None:
    """Draw a measured point with both of its intervals."""
    (x, y), found = _coordinates(results), results["axes"]
    wide, high = found["over_refusal"]["interval"], found["attack_success"]["at_least_one"]["interval"]
    axes.plot(wide, (y, y), color=colour, alpha=0.28, linewidth=3, zorder=2)
    axes.plot((x, x), high, color=colour, alpha=0.28, linewidth=3, zorder=2)
    axes.plot(
        [x],
        [y],
        marker,
        color=colour,
        markersize=7,
        markerfacecolor=SURFACE,
        markeredgewidth=1.8,
        label=label,
        zorder=5,
    )


def _draw_choice(axes: Axes, sweep: Row) -> None:
    choice = sweep["recommended"] or sweep["nearest"]
    if choice is not None:
        x, y = _coordinates(sweep["settings"][choice["index"]]["results"])
        label = "recommended" if sweep["recommended"] else "nearest to the budget"
        axes.plot(
            [x],
            [y],
            "o",
            color=BROKEN,
            markersize=16,
            markerfacecolor="none",
            markeredgewidth=1.6,
            label=label,
            zorder=4,
        )


def _draw_panel(axes: Axes, rows: Sequence[Row], base: Row, title: str, path: Sequence[str]) -> None:
    before = metric_at(base, path)
    if before is not None:
        axes.axhline(before["value"], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="before training", zorder=1)
    for k, (lr, line) in enumerate(_group_by_rate(rows).items()):
        found = [(row["mix"], estimate) for row in line if (estimate := metric_at(row["results"], path)) is not None]
        if found:
            _draw_band(axes, found, SERIES[k % len(SERIES)], STROKES[k % len(STROKES)], f"rate {lr:g}")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xticks(sorted({row["mix"] for row in rows}))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("adversarial share")
    if path[0] != "helpfulness":
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _draw_band(axes: Axes, found: Sequence[tuple[float, Row]], colour: str, stroke: str, label: str) -> None:
    """Draw one metric of one rate: every seed as a point, a line through the means and a band around all intervals."""
    mixes = sorted({mix for mix, _ in found})
    groups = [[estimate for mix, estimate in found if mix == place] for place in mixes]
    low = [min(estimate["interval"][0] for estimate in group) for group in groups]
    high = [max(estimate["interval"][1] for estimate in group) for group in groups]
    means = [sum(estimate["value"] for estimate in group) / len(group) for group in groups]
    axes.fill_between(mixes, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(mixes, means, stroke, color=colour, label=label, zorder=3)
    points = [(mix, estimate["value"]) for mix, estimate in found]
    axes.plot(
        *zip(*points, strict=True),
        "o",
        color=colour,
        markersize=4.5,
        markerfacecolor=SURFACE,
        markeredgewidth=1.5,
        zorder=4,
    )

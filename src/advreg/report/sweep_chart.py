"""The chart of a sweep: robust against clean accuracy, with intervals, frontier, budget and recommendation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from advreg.report.svg import BROKEN, FAINT, INK, ROBUST, SURFACE, drawing, inline

Row = Mapping[str, Any]


def trade_off_chart(sweep: Row, name: str) -> str:
    """Draw the trade-off for a page.

    Args:
        sweep: the content of sweep.json.
        name: id of the chart in the page.

    Returns:
        Inline SVG.
    """
    with drawing():
        figure = Figure(figsize=(7.4, 4.9), layout="constrained")
        draw_trade_off(figure.subplots(), sweep, colours=(ROBUST, FAINT, INK, BROKEN, SURFACE))
    return inline(figure, name, "Robust against clean accuracy", describe_trade_off(sweep))


def draw_trade_off(
    axes: Axes, sweep: Row, colours: Sequence[str] = ("tab:blue", "tab:gray", "black", "tab:red", "white")
) -> None:
    """Draw the trade-off on axes of matplotlib.

    Args:
        axes: the axes.
        sweep: the content of sweep.json.
        colours: of the settings, the budget, the plain network, the ring around the recommendation, and the background.
    """
    point, faint, ink, ring, surface = colours
    measured = measured_settings(sweep)
    if sweep["reference"] is not None:
        limit = sweep["reference"]["clean_accuracy"] - sweep["budget"]
        axes.axvline(limit, color=faint, linewidth=1, linestyle=(0, (2, 3)), label=f"budget: clean {limit:.1%}")
    frontier = sorted(_place(sweep["settings"][k]) for k in sweep["frontier"])
    axes.plot(*zip(*frontier, strict=True), color=point, alpha=0.6, label="frontier") if frontier else None
    for each in measured:
        _draw_setting(axes, each, point if each["setting"] else ink, surface)
    chosen = sweep["recommended"] if sweep["recommended"] is not None else sweep["nearest"]
    if chosen is not None:
        label = "recommended" if sweep["recommended"] is not None else "nearest to the budget"
        x, y = _place(sweep["settings"][chosen])
        axes.plot([x], [y], "o", color=ring, markersize=16, markerfacecolor="none", markeredgewidth=1.6, label=label)
    axes.set(xlabel="clean accuracy on held-out images", ylabel=f"robust accuracy at {sweep['threat']}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.3, ncols=3)


def measured_settings(sweep: Row) -> list[Row]:
    """Return the settings that have accuracies.

    Args:
        sweep: the content of sweep.json.

    Example:
        >>> measured_settings({"settings": [{"clean_accuracy": None}, {"clean_accuracy": {"value": 0.9}}]})
        [{'clean_accuracy': {'value': 0.9}}]
    """
    return [each for each in sweep["settings"] if each["clean_accuracy"] is not None]


def label_of(setting: Row) -> str:
    """Return the values of a setting as a short text.

    Args:
        setting: a setting of sweep.json.

    Example:
        >>> label_of({"setting": {"recipe.options.ratio": "0.3", "threat.eps": "8/255"}})
        'ratio 0.3, eps 8/255'
        >>> label_of({"setting": {}})
        'plain'
    """
    pairs = [f"{key.rpartition('.')[2]} {value}" for key, value in setting["setting"].items()]
    return ", ".join(pairs) or "plain"


def describe_trade_off(sweep: Row) -> str:
    """Return the values of the chart as text, for screen readers.

    Args:
        sweep: the content of sweep.json.
    """
    return " ".join(
        f"{label_of(each)}: clean {each['clean_accuracy']['value']:.1%}, robust {each['robust_accuracy']['value']:.1%}."
        for each in measured_settings(sweep)
    )


def _place(setting: Row) -> tuple[float, float]:
    return setting["clean_accuracy"]["value"], setting["robust_accuracy"]["value"]


def _draw_setting(axes: Axes, setting: Row, colour: str, surface: str) -> None:
    """Draw a setting with both of its intervals and its values beside it."""
    x, y = _place(setting)
    wide, high = (setting[name]["interval"] for name in ("clean_accuracy", "robust_accuracy"))
    axes.plot(_clip(wide), (y, y), color=colour, alpha=0.28, linewidth=3)
    axes.plot((x, x), _clip(high), color=colour, alpha=0.28, linewidth=3)
    axes.plot([x], [y], "o", color=colour, markersize=7, markerfacecolor=surface, markeredgewidth=1.8)
    axes.annotate(label_of(setting), (x, y), xytext=(8, 5), textcoords="offset points", color=colour)


def _clip(interval: Sequence[float]) -> tuple[float, float]:
    return max(0.0, interval[0]), min(1.0, interval[1])

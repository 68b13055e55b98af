"""The page of a sweep: the trade-off, the recommendation and every training, from ``sweep.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from advreg.report.html import render
from advreg.report.sweep_chart import label_of, trade_off_chart
from advreg.runs import RunFolder

Row = Mapping[str, Any]


def write_sweep(sweep: Path | str, out: Path | str | None = None) -> Path:
    """Write the page of a sweep: one self-contained HTML file.

    Args:
        sweep: folder of the sweep.
        out: the file to write; ``report.html`` in the folder if None.

    Returns:
        The path of the page.

    Raises:
        RunError: the folder holds no sweep, or the page cannot be written.
    """
    folder = RunFolder.open(sweep)
    text = sweep_page(folder.read_json("sweep.json"))
    return (
        folder.write("report.html", text) if out is None else RunFolder.at(Path(out).parent).write(Path(out).name, text)
    )


def sweep_page(sweep: Row) -> str:
    """Return the page of a sweep as HTML; the same record gives the same bytes.

    Args:
        sweep: the content of ``sweep.json``.
    """
    return render(
        "sweep.html.j2",
        sweep=sweep,
        chart=Markup(trade_off_chart(sweep, "trade-off")) if sweep["reference"] is not None else "",
        settings=[setting_cells(sweep, k) for k in range(len(sweep["settings"]))],
        choice=recommendation(sweep),
    )


def recommendation(sweep: Row) -> str:
    """Return the recommendation as a sentence; empty where nothing was measured.

    Args:
        sweep: the content of ``sweep.json``.
    """
    if sweep["reference"] is None:
        return ""
    if sweep["recommended"] is None:
        nearest = sweep["nearest"]
        near = "" if nearest is None else f"; the nearest is {label_of(sweep['settings'][nearest])}"
        return f"No setting is recommended: {sweep['why']}{near}."
    return f"Recommended: {label_of(sweep['settings'][sweep['recommended']])}, {sweep['why']}."


def setting_cells(sweep: Row, index: int) -> dict[str, Any]:
    """Return the cells of a setting's row of the table: name, marks, accuracies with intervals, cost.

    Args:
        sweep: the content of ``sweep.json``.
        index: of the setting.
    """
    each = sweep["settings"][index]
    marks = [
        mark
        for mark, applies in (
            ("recommended", index == sweep["recommended"]),
            ("frontier", index in sweep["frontier"]),
            (each["state"], each["state"] != "complete"),
        )
        if applies
    ]
    shares = [_share(each[name]) for name in ("clean_accuracy", "robust_accuracy")]
    cost = [f"{each['forwards']:,}", f"{each['backwards']:,}", f"{each['processor_seconds']:.0f}"]
    return {
        "name": label_of(each),
        "marks": marks,
        "note": each["why"],
        "cells": [*shares, str(len(each["seeds"])), *cost],
    }


def _share(estimate: Row | None) -> str:
    if estimate is None:
        return "-"
    low, high = (min(1.0, max(0.0, end)) for end in estimate["interval"])
    return f"{estimate['value']:.2%} [{low:.1%} - {high:.1%}]"

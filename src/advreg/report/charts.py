"""Charts of the report; each function maps facts to a figure or to inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from advreg.report import formatting, prose
from advreg.report.facts import CurveFacts, EpochFacts, EvaluationFacts, Facts
from advreg.report.svg import BROKEN, CLEAN, FAINT, ROBUST, SERIES, SURFACE, drawing, inline
from advreg.report.two_sided import describe
from advreg.results.plots import MARKED, SIZE, Colours, draw_attacks, draw_curve

LABEL = 40
"""Characters of a name that fit a legend."""
STROKES = ("-", "--", "-.", ":")
"""Line styles, so that lines do not differ by colour alone."""


def robustness(evaluation: EvaluationFacts, name: str) -> str:
    """Draw robust accuracy against eps with its 95% band, and the robust accuracy of the protocol.

    Args:
        evaluation: the evaluation.
        name: name of the figure in the page; unique there.

    Returns:
        Inline SVG; an empty text where the evaluation has no curve.
    """
    figure = robustness_figure(evaluation)
    if figure is None or evaluation.curve is None:
        return ""
    curve = evaluation.curve
    return inline(figure, name, f"{curve.figures.robust} as eps grows ({curve.norm})", prose.curve(curve))


def robustness_figure(evaluation: EvaluationFacts) -> Figure | None:
    """Return the figure of `robustness`.

    Args:
        evaluation: the evaluation.

    Returns:
        The figure; None where the evaluation has no curve.
    """
    curve = evaluation.curve
    if curve is None or not curve.points:
        return None
    with drawing():
        figure, axes = _accuracy_axes()
        _draw_curve(axes, curve, ROBUST, f"{curve.attack} at each eps", "-")
        if curve.norm == evaluation.threat.norm:
            _draw_headline(axes, evaluation)
        across = "eps, as a share of each signal" if curve.features.startswith("snr") else f"eps ({curve.norm})"
        _finish(axes, across, curve.figures.robust.lower())
        axes.set_xlim(left=min(0.0, curve.points[0].eps))
    return figure


def attacks_figure(evaluation: EvaluationFacts) -> Figure:
    """Return bars of clean accuracy and of robust accuracy after each attack.

    Args:
        evaluation: the evaluation.

    Returns:
        The figure.
    """
    with drawing():
        figure = Figure(figsize=(SIZE[0], 0.9 + 0.4 * (1 + len(evaluation.attacks))), layout="constrained")
        colours = Colours(CLEAN, ROBUST, BROKEN, FAINT, SURFACE)
        draw_attacks(figure.subplots(), evaluation.clean_accuracy, evaluation.attacks, evaluation.interval, colours)
    return figure


def two_sided(curve: CurveFacts, name: str) -> str:
    """Draw the proved and the unbroken share against eps; the examples between the two lines are open.

    Args:
        curve: points with both ends.
        name: name of the figure in the page; unique there.

    Returns:
        Inline SVG.
    """
    eps = [point.eps for point in curve.points]
    proved = [point.certified_accuracy or 0.0 for point in curve.points]
    unbroken = [point.robust_accuracy for point in curve.points]
    with drawing():
        figure, axes = _accuracy_axes()
        axes.fill_between(eps, proved, unbroken, facecolor=ROBUST, alpha=0.18, linewidth=0, hatch="//", label="open")
        for shares, stroke, label in ((unbroken, "--", "not broken by attacks"), (proved, "-", "proved")):
            axes.plot(eps, shares, stroke, color=ROBUST, label=label, marker="o", markersize=5, clip_on=False, zorder=3)
        _finish(axes, f"eps ({curve.norm})", "robust accuracy")
        axes.set_xlim(left=min(0.0, eps[0]))
    return inline(figure, name, f"Proved and attacked accuracy as eps grows ({curve.norm})", describe(curve))


def overlay(curves: Sequence[tuple[str, CurveFacts]], name: str) -> str:
    """Draw the robustness curves of several runs, all in the same norm.

    Args:
        curves: (label, curve) in the order of the legend; at least one.
        name: name of the figure in the page; unique there.

    Returns:
        Inline SVG.
    """
    norm, figures = curves[0][1].norm, curves[0][1].figures
    with drawing():
        figure, axes = _accuracy_axes()
        for place, (label, curve) in enumerate(curves):
            colour = SERIES[place % len(SERIES)]
            _draw_curve(axes, curve, colour, label, STROKES[(place // len(SERIES) + place) % len(STROKES)])
        _finish(
            axes,
            f"eps ({norm})",
            figures.robust.lower(),
            columns=2 if all(len(label) <= 24 for label, _ in curves) else 1,
        )
        axes.set_xlim(left=0.0)
    description = " ".join(f"{label}: {prose.curve(curve)}" for label, curve in curves)
    return inline(figure, name, f"{figures.robust} of {len(curves)} runs as eps grows ({norm})", description)


def training(
    epochs: Sequence[EpochFacts], name: str, events: Sequence[Facts] = (), figure_name: str = "accuracy"
) -> str:
    """Draw clean, robust and training accuracy by epoch; below them the learning rate and, where it was logged, eps.

    Args:
        epochs: in order.
        name: name of the figure in the page; unique there.
        events: of the training log; those of the guard are marked.
        figure_name: ``accuracy``, or ``score`` in other tasks than classification.

    Returns:
        Inline SVG; an empty text where there are no epochs.
    """
    figure = training_figure(epochs, events, figure_name)
    title = f"{figure_name.capitalize()} and learning rate by epoch"
    return "" if figure is None else inline(figure, name, title, prose.training(epochs, figure_name))


def training_figure(
    epochs: Sequence[EpochFacts], events: Sequence[Facts] = (), figure_name: str = "accuracy"
) -> Figure | None:
    """Return the figure of `training`.

    Args:
        epochs: in order.
        events: of the training log; those of the guard are marked.
        figure_name: as in `training`.

    Returns:
        The figure; None where there are no epochs.
    """
    if not epochs:
        return None
    with drawing():
        below = [
            key for key in ("lr", "eps") if key == "lr" or any(getattr(epoch, key) is not None for epoch in epochs)
        ]
        figure = Figure(figsize=(SIZE[0], SIZE[1] + 0.8 * (len(below) - 1)), layout="constrained")
        accuracy, *rest = figure.subplots(1 + len(below), 1, sharex=True, height_ratios=(3.4, *[1] * len(below)))
        _draw_guard(accuracy, events)
        _draw_epochs(accuracy, epochs, "train_accuracy", FAINT, "training batches", ":")
        _draw_epochs(accuracy, epochs, "clean_accuracy", CLEAN, "clean", "--")
        _draw_epochs(accuracy, epochs, "robust_accuracy", ROBUST, "robust", "-")
        accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        accuracy.set_ylabel(figure_name)
        _legend(accuracy, columns=2 if accuracy.lines and len(accuracy.get_legend_handles_labels()[0]) > 3 else 3)
        for axes, key in zip(rest, below, strict=True):
            _draw_epochs(axes, epochs, key, FAINT, key, "-")
            axes.set_ylim(bottom=0.0)
            axes.yaxis.set_major_locator(MaxNLocator(2))
            axes.set_ylabel(key)
        rest[-1].set_xlabel("epoch")
        rest[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.align_ylabels()
    return figure


def _accuracy_axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.subplots()


def _draw_curve(axes: Axes, curve: CurveFacts, colour: str, label: str, stroke: str) -> None:
    draw_curve(axes, curve.points, _short(label), colour=colour, stroke=stroke, surface=SURFACE)


def _short(label: str) -> str:
    """Return a name that fits a legend; matplotlib omits names that start with an underscore."""
    short = label if len(label) <= LABEL else label[: LABEL - 1] + "…"
    return f" {short}" if short.startswith("_") else short


def _draw_headline(axes: Axes, evaluation: EvaluationFacts) -> None:
    """Mark the robust accuracy of the protocol at its eps, often lower than the curve, whose attack is cheaper."""
    at, height = evaluation.threat.eps, evaluation.robust_accuracy
    low, high = evaluation.interval or (height, height)
    axes.axvline(at, color=BROKEN, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    span = [[max(0.0, height - low)], [max(0.0, high - height)]]
    label = f"this protocol: {formatting.percent(height, evaluation.n)} at {at:.4g}"
    axes.errorbar([at], [height], span, fmt="D", color=BROKEN, markersize=6, elinewidth=2, zorder=4, label=label)


def _draw_guard(axes: Axes, events: Sequence[Mapping[str, object]]) -> None:
    """Mark the epochs in which the guard raised a warning."""
    epochs = [event["epoch"] for event in events if event.get("event") == "guard"]
    places = sorted(
        {float(epoch) for epoch in epochs if isinstance(epoch, int | float) and not isinstance(epoch, bool)}
    )
    for k, place in enumerate(places):
        label = "guard warning" if k == 0 else None
        axes.axvline(place, color=BROKEN, linewidth=1.2, linestyle=(0, (2, 3)), zorder=1, label=label)


def _draw_epochs(axes: Axes, epochs: Sequence[EpochFacts], key: str, colour: str, label: str, stroke: str) -> None:
    known = [(epoch.epoch, getattr(epoch, key)) for epoch in epochs if getattr(epoch, key) is not None]
    if not known:
        return
    x, y = zip(*known, strict=True)
    marker = "o" if len(known) <= MARKED else ""
    axes.plot(x, y, stroke, color=colour, label=label, marker=marker, markersize=3.5)


def _finish(axes: Axes, across: str, up: str, columns: int = 2) -> None:
    axes.set_ylim(0.0, 1.0)
    axes.margins(x=0.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    _legend(axes, columns)


def _legend(axes: Axes, columns: int) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            borderaxespad=0.3,
            ncols=columns,
            handlelength=2.2,
            columnspacing=3.5,
        )

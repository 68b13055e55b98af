"""Tables on the terminal, from plain rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from advreg.evaluation import CorruptionAccuracy, Evaluation
    from advreg.report import ComparisonRow, TrainingRow
    from advreg.report.baseline import Change
    from advreg.report.paired_tests import Pair
    from advreg.results.evaluation import ClassSummary


def show(table: Table) -> None:
    """Print a table on standard output; where that is no terminal, at most 160 columns wide.

    Args:
        table: the table.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    title, table.title = table.title, None
    if title:
        console.print(title, soft_wrap=True, highlight=False, style="bold")
    console.print(table)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table with a left-aligned first column and right-aligned others.

    Args:
        title: printed above the table.
        columns: headings.
        rows: cells of each row.

    Returns:
        The table.
    """
    result = Table(title=title, box=SIMPLE_HEAD)
    for k, name in enumerate(columns):
        result.add_column(name, justify="left" if k == 0 else "right")
    for row in rows:
        result.add_row(*row)
    return result


def percent(value: float | None) -> str:
    """Format a share as a percentage with two decimals; None becomes a dash.

    Args:
        value: from 0 to 1, or None.

    Returns:
        The text.

    Example:
        >>> percent(0.98765), percent(None)
        ('98.77%', '-')
    """
    return "-" if value is None else f"{value:.2%}"


def span(interval: tuple[float, float] | None) -> str:
    """Format a 95% interval as percentages; None becomes a dash.

    Args:
        interval: low and high end from 0 to 1, or None.

    Returns:
        The text.

    Example:
        >>> span((0.937, 0.964))
        '[93.70%, 96.40%]'
    """
    return "-" if interval is None else f"[{interval[0]:.2%}, {interval[1]:.2%}]"


def evaluation(found: Evaluation) -> Table:
    """Return the table of an evaluation: clean accuracy, then the accuracy left after each attack, with its cost.

    Args:
        found: the evaluation.

    Returns:
        The table.
    """
    rows = [["clean", str(found.n), "-", percent(found.clean_accuracy), span(found.clean_interval), "-", "-", "-"]]
    for attack in found.by_attack:
        cost = [f"{attack.forwards:,}", f"{attack.backwards:,}", f"{attack.seconds:.1f}"]
        is_last = attack is found.by_attack[-1]
        limits = span(found.interval) if is_last else ""
        rows.append(
            [attack.name, str(attack.tried), str(attack.broken), percent(attack.robust_accuracy), limits, *cost]
        )
    figure = "accuracy" if found.task == "classes" else "score"
    columns = ("attack", "tried", "broken", figure, "95% interval", "forwards", "backwards", "seconds")
    return table(f"{found.protocol}, {found.n} examples", columns, rows)


def classes(rows: Sequence[ClassSummary]) -> Table:
    """Return the table of accuracy by class, the least robust first.

    Args:
        rows: one summary for each class.

    Returns:
        The table.
    """
    weakest = sorted(rows, key=lambda row: row.robust_accuracy)
    cells = [(row.name, str(row.n), percent(row.clean_accuracy), percent(row.robust_accuracy)) for row in weakest]
    return table("class by class", ("class", "n", "clean", "robust"), cells)


def corruptions(found: CorruptionAccuracy) -> Table:
    """Return the table of accuracy under corruptions, one row each, with the mean over severities.

    Args:
        found: the measured accuracy.

    Returns:
        The table.
    """
    rows = [["clean", *[""] * len(found.severities), percent(found.clean_accuracy)]]
    rows += [[name, *map(percent, row), percent(sum(row) / len(row))] for name, row in found.accuracy.items()]
    columns = ("corruption", *(f"severity {level}" for level in found.severities), "mean")
    return table(f"accuracy under corruptions, {found.n} examples", columns, rows)


def comparison(rows: Sequence[ComparisonRow]) -> Table:
    """Return the table that compares several runs.

    Args:
        rows: one row for each evaluation.

    Returns:
        The table.
    """
    columns = ("run", "protocol", "n", "clean", "robust", "95% interval", "attack success", "seconds")
    cells = [
        (
            row.run,
            row.protocol or "-",
            str(row.n or "-"),
            percent(row.clean_accuracy),
            percent(row.robust_accuracy),
            span(row.interval),
            percent(row.attack_success_rate),
            "-" if row.seconds is None else f"{row.seconds:.1f}",
        )
        for row in rows
    ]
    return table("", columns, cells)


def trainings(rows: Sequence[TrainingRow]) -> Table:
    """Return the table of trainings: accuracy, time, memory and passes.

    Args:
        rows: one row for each training.

    Returns:
        The table.
    """
    columns = (
        "run",
        "recipe",
        "attack",
        "threat",
        "clean",
        "PGD",
        "AutoAttack",
        "n",
        "epochs",
        "seconds",
        "memory",
        "cost",
    )
    cells = [
        (
            row.run,
            row.recipe,
            row.attack,
            row.threat or "-",
            percent(row.clean_accuracy),
            percent(row.pgd_accuracy),
            percent(row.autoattack_accuracy),
            str(row.n or "-"),
            str(row.epochs),
            "-" if row.seconds is None else f"{row.seconds:.0f}",
            "-" if row.peak_memory is None else f"{row.peak_memory / 2**20:,.0f} MiB",
            "-" if row.cost is None else f"{row.cost:.1f}x",
        )
        for row in rows
    ]
    return table("training: time, memory, and passes as a multiple of standard training", columns, cells)


def pairs(rows: Sequence[Pair]) -> Table:
    """Return the table of paired tests: every two runs on the same examples.

    Args:
        rows: tested pairs.

    Returns:
        The table.
    """
    columns = ("pair", "protocol", "only first", "only second", "difference", "95% interval", "p")
    cells = [
        (
            f"{row.first} - {row.second}",
            row.protocol,
            str(row.only_first),
            str(row.only_second),
            f"{row.difference:+.2%}",
            points(row.interval),
            f"{row.p:.2g}",
        )
        for row in rows
    ]
    return table("robust accuracy on the same examples (exact McNemar test, Holm)", columns, cells)


def changes(rows: Sequence[Change]) -> Table:
    """Return the table of accuracies against those of the baseline.

    Args:
        rows: tested accuracies.

    Returns:
        The table.
    """
    columns = ("run", "protocol", "accuracy", "baseline", "now", "lost", "gained", "difference, 95%", "p", "")
    cells = [
        (
            row.run,
            row.protocol,
            row.figure,
            percent(row.before),
            percent(row.after),
            str(row.lost),
            str(row.gained),
            points(row.interval),
            f"{row.p:.2g}",
            "worse" if row.problem else "",
        )
        for row in rows
    ]
    return table(f"against the baseline, {rows[0].n} examples (exact one-sided McNemar test, Holm)", columns, cells)


def points(interval: tuple[float, float]) -> str:
    """Format an interval of a difference in percentage points.

    Args:
        interval: low and high end, from -1 to 1.

    Returns:
        The text.

    Example:
        >>> points((-0.031, 0.004))
        '[-3.10%, +0.40%]'
    """
    return f"[{interval[0]:+.2%}, {interval[1]:+.2%}]"


def minutes(seconds: float) -> str:
    """Format a duration in its two largest units.

    Args:
        seconds: duration.

    Returns:
        The text.

    Example:
        >>> minutes(75), minutes(8), minutes(7300)
        ('1 min 15 s', '8 s', '2 h 1 min')
    """
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{rest} s"

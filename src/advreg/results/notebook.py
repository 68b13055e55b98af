"""Results as HTML for notebooks: a table, and the drawing of the result as a picture inside the page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CELL = 'style="text-align:left;padding:2px 10px"'


def card(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], plot: Callable[[], Axes] | None = None
) -> str:
    """Return a result as HTML: title, table and picture.

    Args:
        title: the result in one line.
        columns: headings of the table.
        rows: cells.
        plot: draws the result; None for no picture.

    Returns:
        HTML without scripts and without requests.

    Example:
        >>> card("a < b", ["n"], [["1"]]).count("&lt;")
        1
    """
    head = "".join(f"<th {_CELL}>{html.escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td {_CELL}>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div><b>{html.escape(title)}</b>{table}{'' if plot is None else picture(plot(), title)}</div>"


def picture(axes: Axes, description: str) -> str:
    """Return the figure of axes as an image element; the same figure gives the same bytes.

    Args:
        axes: drawn axes.
        description: for screen readers.

    Returns:
        An ``img`` element that holds the picture.
    """
    from matplotlib import rc_context

    buffer, figure = io.BytesIO(), axes.get_figure(root=True)
    assert figure is not None
    with rc_context({"svg.hashsalt": "advreg"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(description, quote=True)}" src="data:image/svg+xml;base64,{content}">'


def percent(share: float | None) -> str:
    """Return a share as a percentage; a dash for None.

    Args:
        share: from 0 to 1.

    Example:
        >>> percent(0.125), percent(None)
        ('12.50%', '-')
    """
    return "-" if share is None else f"{share:.2%}"


def ends(interval: tuple[float, float] | None) -> str:
    """Return an interval as percentages; a dash for None.

    Args:
        interval: low and high end.

    Example:
        >>> ends((0.1, 0.25))
        '10.00% to 25.00%'
    """
    return "-" if interval is None else f"{interval[0]:.2%} to {interval[1]:.2%}"

"""Inline SVG from matplotlib figures: coloured by the style sheet, described for screen readers, with unique ids."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.colors import to_hex, to_rgba_array
from matplotlib.figure import Figure

# matplotlib draws with placeholder colours; the style sheet of the page replaces them for light, dark and print
INK = "#0a0001"
FAINT = "#0a0002"
GRID = "#0a0003"
SURFACE = "#0a0004"
CLEAN = "#0a0005"
ROBUST = "#0a0006"
BROKEN = "#0a0007"
SERIES = ("#0a0011", "#0a0012", "#0a0013", "#0a0014", "#0a0015", "#0a0016")
_NAMES = {INK: "ink", FAINT: "faint", GRID: "grid", SURFACE: "surface"}
_NAMES |= {CLEAN: "clean", ROBUST: "robust", BROKEN: "broken"}
_ON_WHITE = {INK: "#131a26", FAINT: "#56627a", GRID: "#dde3eb", SURFACE: "#ffffff"}
_ON_WHITE |= {CLEAN: "#4d5a70", ROBUST: "#1657c8", BROKEN: "#c23a0c"}
_ON_WHITE |= dict(zip(SERIES, ("#1657c8", "#c23a0c", "#0b7a5f", "#8a3ab9", "#8a6100", "#4d5a70"), strict=True))
_PARTS = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")
_NAMES |= {colour: f"series-{place}" for place, colour in enumerate(SERIES, start=1)}

_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "advreg",
    "text.parse_math": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "ytick.major.size": 0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}


@contextmanager
def drawing() -> Iterator[None]:
    """Use the settings of this module inside the block, whatever the matplotlibrc of the user contains."""
    with style.context(["default", _RC]):
        yield


def inline(figure: Figure, name: str, title: str, description: str) -> str:
    """Return a figure as one `<svg>` element for an HTML page.

    Args:
        figure: drawn inside `drawing`, with this module's colours.
        name: prefix of every id in the element; letters, digits and hyphens, unique in the page.
        title: what the figure shows, for screen readers and as a tooltip.
        description: the content of the figure in words, for screen readers.

    Returns:
        The markup, the same bytes for the same figure.

    Example:
        >>> with drawing():
        ...     figure = Figure(figsize=(1, 1))
        >>> inline(figure, "empty", "Nothing", "An empty figure.")[:38]
        '<svg class="chart" role="img" viewBox='
    """
    buffer = io.StringIO()
    with drawing():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    body = _body(buffer.getvalue())
    width, height = (72 * float(side) for side in figure.get_size_inches())
    label = f'<title id="{name}-title">{html.escape(title)}</title>'
    label += f'<desc id="{name}-desc">{html.escape(description)}</desc>'
    opening = f'<svg class="chart" role="img" viewBox="0 0 {width:g} {height:g}"'
    opening += f' aria-labelledby="{name}-title {name}-desc">'
    return f"{opening}{label}{_apply_theme(_prefix_ids(body, name))}</svg>"


def _body(document: str) -> str:
    """Return the drawing without prologue, metadata, global style and outer element."""
    drawing = document[document.index('<g id="figure_1">') : document.rindex("</svg>")]
    return re.sub(r"\s*\n\s*", " ", drawing)


def _prefix_ids(body: str, name: str) -> str:
    """Prefix the ids that are referenced and remove the others."""
    used = set(re.findall(r"(?:url\(|href=\")#([\w.-]+)", body))
    body = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r"url\(#([\w.-]+)\)", rf"url(#{name}-\1)", body)
    return re.sub(r'(?:xlink:)?href="#([\w.-]+)"', rf'href="#{name}-\1"', body)


def _apply_theme(body: str) -> str:
    """Replace placeholder colours by CSS variables, and drop fonts so that text uses that of the page."""
    body = re.sub(r"font-family: [^;\"]*; ?", "", body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    return re.sub(r"#0a00[0-9a-f]{2}", lambda m: f"var(--{_NAMES[m[0]]})", body)


def paint(figure: Figure) -> Figure:
    """Replace the placeholder colours of a figure by those of the page on white, for PNG, PDF and other programs.

    Args:
        figure: drawn inside `drawing`, with this module's colours.

    Returns:
        The same figure.
    """
    with drawing():
        figure.draw_without_rendering()
    figure.set_facecolor(_ON_WHITE[SURFACE])
    for artist in figure.findobj():
        for part in _PARTS:
            if hasattr(artist, f"get_{part}"):
                _repaint(artist, part)
    return figure


def _repaint(artist: Artist, part: str) -> None:
    """Replace one colour of an artist; opacity remains."""
    found = getattr(artist, f"get_{part}")()
    if isinstance(found, str) and found == "none":
        return
    rows = to_rgba_array(found)
    names = [to_hex(row) for row in rows]
    if any(name in _ON_WHITE for name in names):
        changed = [(_ON_WHITE.get(name, name), row[3]) for name, row in zip(names, rows, strict=True)]
        getattr(artist, f"set_{part}")(changed if len(changed) > 1 else changed[0])

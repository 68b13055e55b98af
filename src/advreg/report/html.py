"""The HTML pages: facts of runs to one self-contained file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from os.path import relpath
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from advreg.errors import RunError
from advreg.report import (
    charts,
    comparison_table,
    diagnosis,
    formatting,
    paired_tests,
    prose,
    read,
    threat_taxonomy,
    training_table,
)
from advreg.report.baseline import Change
from advreg.report.changed_cells import changed_rows
from advreg.report.citation import citation
from advreg.report.commands import commands
from advreg.report.facts import CurveFacts, EvaluationFacts, Facts, RunFacts
from advreg.report.gallery import Card, cards
from advreg.report.scenes import SceneCard, scene_cards
from advreg.report.two_sided import describe, two_sided_curves
from advreg.report.waveforms import wave_cards
from advreg.runs.files import write_atomic
from advreg.version import __version__

GALLERY_BYTES = 2_000_000
"""Bytes of all pictures of a report, whose limit is 3 MB."""
_EXAMPLE_BYTES = 200_000  # of the pictures among which a comparison takes one


@dataclass(frozen=True, eq=False)
class ReportSection:
    """One evaluation with the charts, pictures and commands of its section."""

    id: str
    facts: EvaluationFacts
    curve: Markup
    cards: Sequence[Card]
    commands: Sequence[str]
    scenes: Sequence[SceneCard] = ()


def write(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a run folder: one self-contained HTML file.

    Args:
        run: a run folder; parts that it does not hold are left out of the report.
        out: the file to write; ``report.html`` in the run folder if None.

    Returns:
        The path of the report.

    Raises:
        RunError: the folder is empty, a file is damaged, or the report cannot be written.

    Example:
        >>> write("runs/robust")  # doctest: +SKIP
        PosixPath('runs/robust/report.html')
    """
    return write_page(page(read.run(run)), run, out)


def write_page(text: str, run: Path | str, out: Path | str | None) -> Path:
    """Write a page whole, and return its path.

    Args:
        text: the page.
        run: the run folder.
        out: the file to write; ``report.html`` in the run folder if None.

    Returns:
        The path of the page.

    Raises:
        RunError: the page cannot be written.
    """
    path = Path(out) if out is not None else Path(run) / "report.html"
    write_atomic(path, text)
    return path


def write_comparison(runs: Iterable[Path | str], out: Path | str) -> Path:
    """Write one self-contained HTML file that compares several runs, with links to the pages that they have.

    Args:
        runs: run folders.
        out: the file to write.

    Returns:
        The path of the page.

    Raises:
        RunError: no runs, a folder that is not a run folder, a damaged file, or a page that cannot be written.
    """
    path, facts = Path(out), [read.run(run) for run in runs]
    if not facts:
        raise RunError("no runs to compare; give at least one run folder")
    write_atomic(path, comparison_page(facts, links=_links(facts, path)))
    return path


def _links(runs: Sequence[RunFacts], page: Path) -> dict[str, str]:
    """Return, for each label of a run with a page of its own, the address of that page beside another."""
    named = zip(comparison_table.labels(runs), (run.path / "report.html" for run in runs), strict=True)
    return {label: quote(relpath(file, page.parent)) for label, file in named if file.is_file()}


def page(run: RunFacts) -> str:
    """Return the report of one run as HTML; the same facts give the same bytes.

    Args:
        run: facts of the run.

    Returns:
        The HTML text.
    """
    budget = GALLERY_BYTES // max(1, len(run.evaluations))
    sections = [_section(run, facts, place, budget) for place, facts in enumerate(run.evaluations, start=1)]
    return render(
        "template.html.j2",
        run=run,
        sections=sections,
        two_sided=[
            (curve, Markup(charts.two_sided(curve, f"two-sided-{place}")), describe(curve))
            for place, curve in enumerate(two_sided_curves(run.certificates), start=1)
        ],
        training=Markup(charts.training(run.epochs, "training", run.events, run.figures.short)),
        train_commands=commands(run, None),
        comparison="../report.html" if (run.path.parent / "report.html").is_file() else "",
        diagnosis=diagnosis.section(run.path),
        model=list(flat(run.model)),
        environment=list(flat(run.environment or _first_environment(run))),
    )


def comparison_page(
    runs: Sequence[RunFacts], changes: Sequence[Change] = (), links: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return the comparison of several runs as HTML.

    Args:
        runs: facts of the runs.
        changes: accuracies of the runs against those of a baseline.
        links: label of a run -> address of its own page.

    Returns:
        The HTML text.
    """
    rows = comparison_table.rows(runs)
    return render(
        "comparison.html.j2",
        count=len(runs),
        groups=[(protocol, list(rivals)) for protocol, rivals in groupby(rows, key=lambda row: row.protocol)],
        best=_best(rows),
        differences=comparison_table.differences(rows),
        pairs=paired_tests.paired_tests(runs),
        changes=changes,
        links=links,
        example=_broken_example(runs),
        trainings=training_table.rows(runs),
        charts=[
            (curves[0][1].norm, Markup(charts.overlay(curves, f"curves-{place}")))
            for place, curves in enumerate(_by_norm(runs), start=1)
        ],
    )


def flat(facts: Facts, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested facts as pairs of a dotted key and text, in their order.

    Args:
        facts: a JSON object; null values are left out.
        prefix: put before each key.

    Yields:
        Key and text.

    Example:
        >>> list(flat({"torch": "2.6", "cpu": {"cores": 2}, "seeds": [0, 1]}))
        [('torch', '2.6'), ('cpu.cores', '2'), ('seeds', '0, 1')]
    """
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif value is not None:
            parts = value if isinstance(value, list) else [value]
            yield f"{prefix}{key}", ", ".join(str(part) for part in parts)


def _section(run: RunFacts, facts: EvaluationFacts, place: int, budget: int) -> ReportSection:
    return ReportSection(
        id=f"evaluation-{place}",
        facts=facts,
        curve=Markup(charts.robustness(facts, f"curve-{place}")),
        cards=cards(facts, budget),
        commands=commands(run, facts),
        scenes=scene_cards(facts, budget),
    )


def _first_environment(run: RunFacts) -> Facts:
    return next((facts.environment for facts in run.evaluations if facts.environment), {})


def _best(rows: Sequence[comparison_table.ComparisonRow]) -> list[comparison_table.ComparisonRow]:
    """Return the rows with the highest robust accuracy of their protocol, where it has several."""
    best: list[comparison_table.ComparisonRow] = []
    for _, group in groupby(rows, key=lambda row: row.protocol):
        rivals = [row for row in group if row.robust_accuracy is not None and row.verdict != "UNRELIABLE"]
        if len(rivals) > 1:
            best += [row for row in rivals if row.robust_accuracy == rivals[0].robust_accuracy]
    return best


def _broken_example(runs: Sequence[RunFacts]) -> tuple[Card, EvaluationFacts] | None:
    """Return the first picture of a broken example and its evaluation, of the least robust evaluation that has one."""
    found = [facts for run in runs for facts in run.evaluations]
    for facts in sorted(found, key=lambda facts: facts.robust_accuracy):
        for card in cards(facts, _EXAMPLE_BYTES):
            if card.outcome == "fooled":
                return card, facts
    return None


def _by_norm(runs: Sequence[RunFacts]) -> list[list[tuple[str, CurveFacts]]]:
    """Return, for each norm, the first curve of every run with its label; norms with most runs first."""
    by_norm: dict[str, dict[str, CurveFacts]] = {}
    for label, run in zip(comparison_table.labels(runs), runs, strict=True):
        for facts in run.evaluations:
            if facts.curve is not None and facts.curve.points:
                by_norm.setdefault(facts.curve.norm, {}).setdefault(label, facts.curve)
    return [list(curves.items()) for _, curves in sorted(by_norm.items(), key=lambda it: (-len(it[1]), it[0]))]


def _source(name: str) -> str:
    return files("advreg.report").joinpath(name).read_text(encoding="utf-8")


def render(template: str, **values: object) -> str:
    """Render a template as HTML; its security policy allows no requests and only the script of the page.

    Args:
        template: file name of the template.
        values: variables of the template.

    Returns:
        The HTML text.
    """
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "vocabulary": threat_taxonomy,
        "formatting": formatting,
        "prose": prose,
        "changed_rows": changed_rows,
        "wave_cards": wave_cards,
        "citation": citation,
        "version": __version__,
    }
    script = _source("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    assets = {"style": Markup(_source("style.css")), "script": Markup(script), "script_digest": digest}
    return environment.get_template(template).render(**assets, **values) + "\n"

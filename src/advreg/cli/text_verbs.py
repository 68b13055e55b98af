"""What the verbs of ``advreg text`` do: resolve their options, call one function of the library, print the result."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from advreg import runtime
from advreg.cli import progress, tables
from advreg.cli.attack_options import parse_attacks
from advreg.cli.language_inputs import read_rows
from advreg.documents import check_links
from advreg.errors import ConfigError
from advreg.language.classifiers.evaluate import ATTACKS, CLEAN, TextEvaluation, evaluate_text
from advreg.language.classifiers.examples import label_numbers, read_texts
from advreg.language.classifiers.fit import CONFIG
from advreg.language.classifiers.model import TextClassifier, load_classifier
from advreg.report import text as text_report
from advreg.runs.files import write_atomic


@dataclass(frozen=True)
class _TextInputs:
    """A classifier on its device, and the first texts of a file with their classes."""

    classifier: TextClassifier
    texts: list[str]
    labels: list[int]


def _inputs(model: str, data: str, n: int, device: str) -> _TextInputs:
    """Load the classifier and the texts; a wrong label is reported before hours of work."""
    if (Path(model) / CONFIG).is_file():
        check_links(Path(model))
    rows = read_rows(data, read_texts)[:n]
    classifier = load_classifier(model)
    labels = label_numbers([row.label for row in rows], classifier.classes, data)
    classifier.network.to(runtime.choose_device(device))
    return _TextInputs(classifier, [row.text for row in rows], labels)


def run_evaluate(
    model: str, data: str, attacks: Sequence[str], *, n: int, out: Path | None, device: str, as_json: bool
) -> None:
    """Evaluate a text classifier, print a table, and write the report of a run folder.

    Args:
        model: a run folder or the name of a classifier.
        data: the file of labelled texts.
        attacks: ``name`` or ``name:key=value,...`` each.
        n: number of texts, from the first.
        out: folder to write into; the run folder if None.
        device: auto, cpu, cuda, ...
        as_json: print one JSON object instead of text.
    """
    functions = list(parse_attacks(attacks, ATTACKS).values())
    given = _inputs(model, data, n, device)
    folder = out or (Path(model) if (Path(model) / CONFIG).is_file() else None)
    with progress.stages("evaluating", quiet=as_json) as watch:
        result = evaluate_text(
            given.classifier, given.texts, given.labels, attacks=functions, out=folder, on_progress=watch
        )
    if as_json:
        typer.echo(json.dumps(result.record()))
        return
    _print(result)
    if folder is not None:
        print(f"report: {text_report.write(folder)}", file=sys.stderr)


def run_attack(
    model: str, data: str, attacks: Sequence[str], *, n: int, out: Path | None, device: str, as_json: bool
) -> None:
    """Attack texts, and print each before and after.

    Args:
        model: a run folder or the name of a classifier.
        data: the file of labelled texts.
        attacks: attacks that change words.
        n: number of texts, from the first.
        out: JSON-lines file for the attacked texts; none is written if None.
        device: auto, cpu, cuda, ...
        as_json: print one JSON object instead of text.

    Raises:
        ConfigError: an attack changes no words.
    """
    functions = parse_attacks(attacks, ATTACKS)
    if "embedding" in functions:
        raise ConfigError("embedding changes no words, so there is no text to show; use advreg text evaluate, or words")
    given = _inputs(model, data, n, device)
    result = evaluate_text(given.classifier, given.texts, given.labels, attacks=list(functions.values()))
    found = [_attacked_row(given, row) for row in result.rows if row["attack"] != CLEAN or row["broken"]]
    if out is not None:
        write_atomic(out, "".join(json.dumps(row) + "\n" for row in found))
    typer.echo(json.dumps({"texts": found}) if as_json else "\n\n".join(map(_describe, found)))


def _attacked_row(given: _TextInputs, row: Mapping[str, Any]) -> dict[str, Any]:
    classes, i = given.classifier.classes, row["id"]
    facts = {"id": i, "attack": row["attack"], "broken": row["broken"], "label": classes[row["label"]]}
    return {**facts, "predicted": classes[row["predicted"]], "before": given.texts[i], "after": row["text"]}


def _describe(row: Mapping[str, Any]) -> str:
    if row["attack"] == CLEAN:
        return f"{row['id']}  misclassified without an attack: {row['label']} as {row['predicted']}\n  {row['before']}"
    outcome = f"{row['label']} -> {row['predicted']}" if row["broken"] else f"{row['label']} withstands {row['attack']}"
    lines = [f"{row['id']}  {outcome}", f"  before: {row['before']}"]
    return "\n".join([*lines, f"  after:  {row['after']}"] if row["after"] else lines)


def _print(result: TextEvaluation) -> None:
    cells = [
        (name, tables.percent(share.value), tables.span(share.interval), str(share.tried), str(share.broken))
        + (f"{share.forwards:,}", f"{share.backwards:,}")
        for name, share in {CLEAN: result.clean, **result.attacks}.items()
    ]
    columns = ("", "accuracy", "95% interval", "tried", "broken", "forwards", "backwards")
    tables.show(tables.table(f"{result.model}, {result.n} texts", columns, cells))

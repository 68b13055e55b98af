"""The report of a text classifier: one self-contained HTML file from an evaluated run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from advreg.documents import check_links
from advreg.errors import RunError
from advreg.report.html import flat, render, write_page
from advreg.runs import RunFolder

FOLDER = "evaluation/text@1"
EXAMPLES = 40
"""Attacked texts that the page shows."""

Row = Mapping[str, Any]


def write(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of an evaluated text classifier: one HTML file that loads nothing else.

    Args:
        run: run folder with an evaluation.
        out: the file to write; ``report.html`` in the folder if None.

    Returns:
        The path of the report.

    Raises:
        RunError: the folder holds no evaluation, a file is damaged, or the report cannot be written.

    Example:
        >>> write("nowhere")
        Traceback (most recent call last):
        advreg.errors.RunError: there is no run folder at nowhere; give the folder of a run.
    """
    return write_page(page(RunFolder.open(run)), run, out)


def page(folder: RunFolder) -> str:
    """Return the report as HTML text; the same files give the same bytes.

    Args:
        folder: run folder with an evaluation.

    Raises:
        RunError: nothing was evaluated yet, or a file is damaged.
    """
    check_links(folder.path)
    if not (folder / FOLDER / "results.json").is_file():
        raise RunError(
            f"{folder.path} holds no evaluation of a text classifier; run advreg text evaluate {folder.path}"
        )
    results = folder.read_json(f"{FOLDER}/results.json")
    rows = folder.read_log(f"{FOLDER}/ledger.jsonl")[1:]
    try:
        return render(
            "text.html.j2",
            results=results,
            shares=[("clean", results["clean"]), *results["attacks"].items()],
            examples=examples(rows, results["classes"]),
            training=folder.read_log("metrics.jsonl"),
            environment=list(flat(results.get("environment") or {})),
        )
    except (KeyError, TypeError, IndexError, AttributeError) as cause:
        problem = f"{type(cause).__name__}: {cause}"
        raise RunError(f"{folder / FOLDER} is damaged ({problem}); evaluate again in another folder") from cause


def examples(rows: Sequence[Row], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the first attacked texts that are misclassified, with the changed words marked.

    Args:
        rows: rows of the ledger.
        classes: names of the classes.
    """
    before = {row["id"]: row["original"] for row in rows if row["attack"] == "clean"}
    broken = [row for row in rows if row["broken"] and row["text"]][:EXAMPLES]
    return [
        {
            "id": row["id"],
            "attack": row["attack"],
            "label": classes[row["label"]],
            "predicted": classes[row["predicted"]],
            "before": _mark_changes(row["text"], before[row["id"]]),
            "after": _mark_changes(before[row["id"]], row["text"]),
        }
        for row in broken
    ]


def _mark_changes(before: str, after: str) -> Markup:
    """Return a text as HTML with the words marked that another text does not have."""
    old, new = before.split(" "), after.split(" ")
    parts = [
        (kind, " ".join(new[start:end]))
        for kind, _, _, start, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        if end > start
    ]
    return Markup(" ").join(
        escape(text) if kind == "equal" else Markup("<mark>{}</mark>").format(text) for kind, text in parts
    )

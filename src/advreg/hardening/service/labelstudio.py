"""Label Studio's JSON: examples are exported as tasks, annotations are imported as reviews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from advreg.errors import HardeningError
from advreg.hardening.media_types import TEXTS, Medium, medium_of
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row, Verdict, answer_to, review
from advreg.hardening.texts.validation import show_invisible

_IMAGE = '<Image name="image" value="$image"/>'
_TEXT = '<Text name="text" value="$text"/><Text name="answer" value="$answer"/>'
_REJECT = "reject"


def config(classes: Sequence[str], medium: Medium) -> str:
    """Return the labelling interface for these classes, to paste into a project's settings.

    Args:
        classes: class names.
        medium: images or texts.

    Example:
        >>> from advreg.hardening.media_types import IMAGES
        >>> config(["cat"], IMAGES)[:60]
        '<View><Image name="image" value="$image"/><Choices name="lab'
    """
    tag, shown = ("text", _TEXT) if medium.name == "texts" else ("image", _IMAGE)
    choices = "".join(f"<Choice value={quoteattr(name)}/>" for name in (*classes, _REJECT))
    return f'<View>{shown}<Choices name="label" toName="{tag}">{choices}</Choices></View>'


def tasks(store: Store, rows: Sequence[Row], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return examples as tasks with the image or the text and the deployed model's output.

    Args:
        store: the store.
        rows: rows of the examples.
        classes: class names.
    """
    return [_task(store, row, classes) for row in rows]


def _task(store: Store, row: Row, classes: Sequence[str]) -> dict[str, Any]:
    medium = medium_of(row["kind"])
    shown: dict[str, Any] = dict(medium.shown(store.blobs.get(row["sha256"])))
    result = []
    if medium is TEXTS:
        with store.reading() as db:
            shown["answer"] = show_invisible(answer_to(db, row["sha256"]) or "")
    elif row["prediction"] < len(classes):
        result = _choice(classes[row["prediction"]])
    data = {**shown, "sha256": row["sha256"], "suspicion": row["suspicion"]}
    return {"data": data, "predictions": [{"model_version": row["model"], "result": result}] if result else []}


def import_annotations(store: Store, exported: Any, reviewer: str, classes: Sequence[str]) -> dict[str, str]:
    """Record the annotations of an export as reviews by the importing user; names in the file are not trusted.

    Args:
        store: the store.
        exported: the parsed JSON of an export.
        reviewer: name of the importing user.
        classes: class names.

    Returns:
        Example -> its new state, or the reason why its annotation was left out.

    Raises:
        HardeningError: the JSON is not an export of Label Studio.
    """
    if not isinstance(exported, list) or not all(map(_is_task, exported)):
        raise HardeningError("the body is not an export of Label Studio; export the project as JSON")
    found: dict[str, str] = {}
    for task in exported:
        name, choice = task["data"]["sha256"], _annotated_choice(task)
        if choice is None:
            continue
        if choice != _REJECT and choice not in classes:
            found[name] = f"unknown class {choice[:40]!r}"
            continue
        label = None if choice == _REJECT else classes.index(choice)
        try:
            found[name] = review(store, Verdict(name, reviewer, label), len(classes))
        except HardeningError as error:
            found[name] = str(error)
    return found


def _is_task(task: Any) -> bool:
    """Return whether an element of an export is a task that `tasks` made."""
    data = task.get("data") if isinstance(task, Mapping) else None
    return isinstance(data, Mapping) and isinstance(data.get("sha256"), str)


def _choice(name: str) -> list[dict[str, Any]]:
    return [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [name]}}]


def _annotated_choice(task: Mapping[str, Any]) -> str | None:
    """Return the choice of a task's newest annotation; None without one."""
    try:
        done = [entry for entry in task.get("annotations") or [] if not entry.get("was_cancelled")]
        results = [result for result in done[-1]["result"] if result["type"] == "choices"] if done else []
        return str(results[0]["value"]["choices"][0]) if results else None
    except (KeyError, IndexError, TypeError, AttributeError):
        return None

"""Labelled texts: read from files, and checked against the classes of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from advreg.errors import DataError
from advreg.language.classifiers.model import TextClassifier
from advreg.language.datasets.rows import Row, parse_text, read_rows


@dataclass(frozen=True)
class LabelledText:
    """A text with its class, a number or a name; the id is its row in the file."""

    id: int
    text: str
    label: str


def read_texts(path: str | Path, text: str = "text", label: str = "label") -> list[LabelledText]:
    """Read labelled texts from a .csv, .json or .jsonl file.

    Args:
        path: the file.
        text: column of the texts.
        label: column of the classes: numbers from 0, or names.

    Returns:
        One example for each row.

    Raises:
        DataError: the file cannot be read, or a row has no text or no label.
    """
    rows = enumerate(read_rows(path))
    return [LabelledText(i, parse_text(row, text), _parse_label(row, label)) for i, row in rows]


def _parse_label(row: Row, column: str) -> str:
    """Return a label as text; JSON files may hold numbers."""
    where, fields = row
    value = fields.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return parse_text((where, fields), column).strip()


def label_numbers(labels: Sequence[str], classes: Sequence[str], source: str = "the data") -> list[int]:
    """Return labels as class numbers.

    Args:
        labels: a number from 0, or the name of a class, each.
        classes: names of the classes, in the order of the logits.
        source: file of the labels, for the message.

    Returns:
        One number for each label.

    Raises:
        DataError: a label is neither a number of a class nor its name.

    Example:
        >>> label_numbers(["good", "0"], ["bad", "good"])
        [1, 0]
    """
    numbers = {str(k): k for k in range(len(classes))} | {name: k for k, name in enumerate(classes)}
    for row, label in enumerate(labels):
        if label not in numbers:
            raise DataError(f"{source} row {row + 1}: {_wrong_label(label, classes)}")
    return [numbers[label] for label in labels]


def _wrong_label(label: str | int, classes: Sequence[str]) -> str:
    """Return the message about a label that is no class."""
    hint = (
        "; -1 marks rows without a label, as in the test sets of GLUE: give a labelled split"
        if str(label) == "-1"
        else ""
    )
    return f"the label is {label!r}, and the model has {', '.join(classes)} (0 to {len(classes) - 1}){hint}"


def check_examples(classifier: TextClassifier, texts: Sequence[str], labels: Sequence[int]) -> None:
    """Check that there is a label for each text, and that each label is a class of the head.

    Args:
        classifier: the classifier.
        texts: the texts.
        labels: class of each text, 0 to K - 1.

    Raises:
        DataError: there are no texts, their number is not that of the labels, or a label is no class.
        ModelError: the head has no classes that exclude each other.
    """
    if not texts or len(texts) != len(labels):
        raise DataError(
            f"there are {len(texts)} texts and {len(labels)} labels; give at least one text, and one label for each"
        )
    classes = classifier.classes
    for row, label in enumerate(labels):
        if not _is_class(label, len(classes)):
            raise DataError(f"text {row}: {_wrong_label(label, classes)}")


def _is_class(label: object, count: int) -> bool:
    """Return whether a label is a whole number from 0 to ``count - 1``; numbers of NumPy are whole, True is not."""
    return type(label) is not bool and isinstance(label, Integral) and 0 <= int(label) < count

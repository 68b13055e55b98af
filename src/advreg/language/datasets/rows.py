"""Rows of a file, and their columns checked and converted."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from advreg.errors import DataError
from advreg.language.evaluation.ifeval import check_arguments

Row = tuple[str, Mapping[str, Any]]
"""The place of a row in its file, for messages, and its fields."""


def read_rows(path: str | Path) -> list[Row]:
    """Return the rows of a file, read in the format of its suffix.

    Args:
        path: a .csv, .json or .jsonl file.

    Raises:
        DataError: the file is not readable, has another format, or has no rows; the message names the line.
    """
    file = Path(path)
    readers = {".csv": _csv, ".json": _json, ".jsonl": _jsonl}
    if file.suffix.lower() not in readers:
        raise DataError(f"{file} ends in {file.suffix!r}; give a file that ends in {', '.join(readers)}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        raise DataError(
            f"cannot read {file}: {getattr(cause, 'strerror', None) or 'it is not UTF-8'}; give a UTF-8 text file"
        ) from cause
    rows = [(f"{file} {where}", row) for where, row in readers[file.suffix.lower()](text, file)]
    if not rows:
        raise DataError(f"{file} has no rows; give one at least")
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise DataError(f"{where} is {type(row).__name__}; each row must be an object with named fields")
    return rows


def _csv(text: str, file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a CSV file with their line numbers."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{file} line {reader.line_num} has another number of fields than the header; quote commas"
                )
            yield f"line {reader.line_num}", row
    except csv.Error as cause:
        raise DataError(f"{file} is no CSV: {cause}; give a file in the format of its suffix") from cause
    finally:
        csv.field_size_limit(limit)


def _json(text: str, file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a JSON list with their numbers."""
    rows = _parse_json(text, str(file))
    if not isinstance(rows, list):
        raise DataError(f"{file} is {type(rows).__name__}; it must be a list of objects")
    yield from ((f"row {i}", row) for i, row in enumerate(rows, 1))


def _jsonl(text: str, file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a JSON-lines file with their line numbers."""
    for i, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {i}", _parse_json(line, f"{file} line {i}")


def _parse_json(text: str, where: str) -> Any:
    """Return the value of a JSON text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise DataError(f"{where} is no JSON: {str(cause).splitlines()[0]}; correct it") from cause


def parse_text(row: Row, column: str, default: str | None = None) -> str:
    """Return the text of a column, which must not be blank unless there is a default.

    Args:
        row: place and fields of a row.
        column: name of the column.
        default: text of a row without the column; None if the column is required.

    Raises:
        DataError: the column is missing, blank or no text.

    Example:
        >>> parse_text(("a.csv line 2", {"goal": "Open a lock"}), "goal")
        'Open a lock'
    """
    where, fields = row
    value = fields.get(column, default)
    if value is None:
        raise DataError(
            f"{where} has no {column!r}; it has {', '.join(map(str, fields))}; name the columns of this file"
        )
    if not isinstance(value, str) or (not value.strip() and default is None):
        given = "empty" if isinstance(value, str) else type(value).__name__
        raise DataError(f"{where}: {column} is {given}; it must be text")
    return value


def parse_texts(row: Row, column: str) -> tuple[str, ...]:
    """Return the texts of a column without duplicates: a list, or one text with ``;`` between them.

    Args:
        row: place and fields of a row.
        column: name of the column.

    Raises:
        DataError: the column is missing, has another type or no text.

    Example:
        >>> parse_texts(("a.csv line 2", {"targets": "Sure; Yes; Sure"}), "targets")
        ('Sure', 'Yes')
    """
    where, fields = row
    value = fields.get(column)
    parts = value.split(";") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise DataError(
            f"{where}: {column} is {type(value).__name__}; it must be texts, or one text with ; between them"
        )
    texts = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not texts:
        raise DataError(f"{where}: {column} has no text; give one at least")
    return texts


def parse_instructions(row: Row, ids: str, arguments: str) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """Return the instructions of a row with checked arguments.

    Args:
        row: place and fields of a row.
        ids: column of the list of instruction ids.
        arguments: column of the list of their arguments.

    Raises:
        DataError: the lists are missing or differ in length, or an instruction or argument is unknown.
    """
    where, fields = row
    names, given = fields.get(ids), fields.get(arguments)
    if not isinstance(names, list) or not isinstance(given, list) or len(names) != len(given) or not names:
        raise DataError(f"{where}: {ids} and {arguments} must be lists of equal length, of one instruction at least")
    try:
        return tuple((name, check_arguments(name, dict(each or {}))) for name, each in zip(names, given, strict=True))
    except (DataError, TypeError, ValueError) as cause:
        raise DataError(f"{where}: {cause}") from cause


def parse_refusal_label(row: Row, column: str) -> bool:
    """Return whether the label of a row is a refusal.

    Args:
        row: place and fields of a row.
        column: column of the label.

    Raises:
        DataError: the label contains neither ``refusal`` nor ``compliance``, or both.

    Example:
        >>> parse_refusal_label(("a.csv line 2", {"label": "2_full_refusal"}), "label")
        True
    """
    label = parse_text(row, column).lower()
    if ("refusal" in label) == ("compliance" in label):
        raise DataError(f"{row[0]}: {column} is {label!r}; a label must contain 'refusal' or 'compliance'")
    return "refusal" in label

"""Rows of a file, and their columns checked and converted."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from advreg.errors import DataError
from advreg.language.evaluation.ifeval import check_arguments
from advreg.plugins import first_line, import_extra

Source = str | Path | Iterable[Mapping[str, Any]]
"""A file, a data set of the hub, or rows in memory."""
Row = tuple[str, Mapping[str, Any]]
"""The place of a row in its file, for messages, and its fields."""


def read_rows(source: Source) -> list[Row]:
    """Return the rows of a file, a data set of the hub, or a data set in memory.

    Args:
        source: a .csv, .json, .jsonl or .parquet file, ``hf:ORG/NAME:SPLIT``, or rows such as a `datasets.Dataset`.

    Raises:
        DataError: the file is not readable, has another format, or has no rows; the message names the line.
        MissingExtraError: pyarrow or datasets is needed and not installed.

    Example:
        >>> read_rows([{"goal": "Open a lock"}])
        [('row 1', {'goal': 'Open a lock'})]
    """
    place = str(source) if isinstance(source, str | Path) else "the data set"
    rows = [(f"{place} {where}" if place != "the data set" else where, row) for where, row in _numbered_rows(source)]
    if not rows:
        raise DataError(f"{place} has no rows; give one at least")
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise DataError(f"{where} is {type(row).__name__}; each row must be an object with named fields")
    return rows


def _numbered_rows(source: Source) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a source, each with its place in it."""
    if not isinstance(source, str | Path):
        return ((f"row {i}", row) for i, row in enumerate(source, 1))
    if str(source).startswith("hf:"):
        return _hub(str(source))
    file = Path(source)
    readers = {".csv": _csv, ".json": _json, ".jsonl": _jsonl}
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return _parquet(file)
    if suffix not in readers:
        raise DataError(f"{file} ends in {file.suffix!r}; give a file that ends in {', '.join([*readers, '.parquet'])}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        raise DataError(
            f"cannot read {file}: {getattr(cause, 'strerror', None) or 'it is not UTF-8'}; give a UTF-8 text file"
        ) from cause
    return readers[suffix](text, file)


def _parquet(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a Parquet file."""
    parquet = import_extra("pyarrow.parquet", "advreg[tables]")
    try:
        rows = parquet.read_table(file).to_pylist()
    except Exception as cause:  # pyarrow raises errors of its own
        raise DataError(f"cannot read {file}: {first_line(cause)}; give a Parquet file") from cause
    yield from ((f"row {i}", row) for i, row in enumerate(rows, 1))


def _hub(name: str) -> Iterator[tuple[str, Any]]:
    """Yield the rows of ``hf:ORG/NAME:SPLIT``; the split ``train`` without one."""
    library = import_extra("datasets", "datasets")
    _, place, *split = name.split(":")
    try:
        rows = library.load_dataset(place, split=split[0] if split else "train")
    except Exception as cause:  # the library raises errors of many kinds
        raise DataError(f"{name} cannot be loaded: {first_line(cause)}; give hf:ORG/NAME:SPLIT") from cause
    yield from ((f"row {i}", row) for i, row in enumerate(rows, 1))


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


def present_column(row: Row, *names: str) -> str:
    """Return the first of these columns that a row has; the first of all if it has none of them.

    Args:
        row: place and fields of a row.
        names: names of a column in different data sets.

    Example:
        >>> present_column(("a.csv line 2", {"Behavior": "Open a lock"}), "goal", "Behavior")
        'Behavior'
    """
    return next((name for name in names if name in row[1]), names[0])


def parse_messages(row: Row, column: str) -> list[dict[str, str]]:
    """Return the turns of a conversation.

    Args:
        row: place and fields of a row.
        column: column of a list of ``{"role": "system" | "user" | "assistant", "content": text}``; parts of a content that are
            texts are joined.

    Raises:
        DataError: the column has another form, or no reply of the assistant to a user.
    """
    where, fields = row
    turns = [_parse_turn(where, column, turn) for turn in fields.get(column) or []]
    roles = [turn["role"] for turn in turns]
    if ("user", "assistant") not in set(pairwise(roles)):
        raise DataError(f"{where}: {column} has no user turn with a reply of the assistant; give one at least")
    return turns


def _parse_turn(where: str, column: str, turn: Any) -> dict[str, str]:
    content = turn.get("content") if isinstance(turn, Mapping) else None
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
    if not isinstance(content, str) or turn.get("role") not in ("system", "user", "assistant"):
        raise DataError(f"{where}: {column} must be a list of role (system, user or assistant) and content (text)")
    return {"role": turn["role"], "content": content}


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


def parse_weight(row: Row, column: str) -> float:
    """Return the weight of a row, 1 without the column.

    Args:
        row: place and fields of a row.
        column: name of the column.

    Raises:
        DataError: the weight is no number from 0 up.

    Example:
        >>> parse_weight(("a.jsonl line 2", {"weight": 0.25}), "weight")
        0.25
    """
    given = row[1].get(column, 1.0)
    try:
        weight = float(given)
    except (TypeError, ValueError):
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise DataError(f"{row[0]}: {column} is {given!r}; allowed: a number from 0 up, such as 0.5")
    return weight


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


def parse_yes_or_no(row: Row, column: str) -> bool:
    """Return whether a label says yes; it is yes or no.

    Args:
        row: place and fields of a row.
        column: column of the label.

    Raises:
        DataError: the label is something else.

    Example:
        >>> parse_yes_or_no(("a.csv line 2", {"harmful": "no"}), "harmful")
        False
    """
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    label = str(row[1].get(column)).strip().lower()
    if label not in known:
        raise DataError(f"{row[0]}: {column} is {row[1].get(column)!r}; allowed: {', '.join(known)}")
    return known[label]

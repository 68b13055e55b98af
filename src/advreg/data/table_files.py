"""Tables in files: ``csv:FILE?label=COLUMN`` by the standard library, ``parquet:FILE?label=COLUMN`` by pyarrow."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advreg.data.columns import TableRows, table_of_columns, targets_of_columns, with_class_names
from advreg.data.hash_split import is_test
from advreg.data.table import Box, Table
from advreg.errors import DataError, did_you_mean_path
from advreg.plugins import first_line, import_extra

Pair = tuple[Table, Table]
Columns = dict[str, Any]

_SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";"}
_SCALES = ("", "std", "range")
_MISSING = ("", "na", "n/a", "nan", "null", "none", "?")


def parse_box(text: str) -> Box:
    """Return a box from ``low,high``.

    Args:
        text: two numbers.

    Returns:
        Lowest and highest valid value.

    Raises:
        ValueError: something else.

    Example:
        >>> parse_box("-3,3")
        (-3.0, 3.0)
    """
    low, high = (float(end) for end in text.split(","))
    return low, high


def csv_table(
    path: str,
    *,
    label: str = "",
    box: Box | None = None,
    drop: str = "",
    scale: str = "",
    test: str = "",
    sep: str = "",
) -> Pair:
    """Read a table with a header from a CSV file, ``.gz`` too; without ``test`` a fixed fifth of the rows is held out.

    Args:
        path: the file.
        label: name of the label column: whole numbers from 0, or names of classes.
        box: lowest and highest valid value of a feature.
        drop: names of columns to leave out, separated by commas.
        scale: ``std`` for features in standard deviations from the mean of the training rows, ``range`` for [0, 1].
        test: file of the test rows.
        sep: ``comma``, ``semicolon``, ``tab`` or the character itself; found in the header where it is not given.

    Returns:
        The training set and the test set.

    Raises:
        DataError: no such file or column, no header, rows of unequal length, or columns that are no numbers.
    """
    return _tables("csv", path, test, (label, box, drop, scale), lambda file: _read_csv(file, sep), _class_rows)


def parquet_table(
    path: str, *, label: str = "", box: Box | None = None, drop: str = "", scale: str = "", test: str = ""
) -> Pair:
    """Read a table from a Parquet file; without ``test`` a fixed fifth of the rows is held out.

    Args:
        path: the file.
        label: name of the label column: whole numbers from 0, or names of classes.
        box: lowest and highest valid value of a feature.
        drop: names of columns to leave out, separated by commas.
        scale: ``std`` for features in standard deviations from the mean of the training rows, ``range`` for [0, 1].
        test: file of the test rows.

    Returns:
        The training set and the test set.

    Raises:
        DataError: no such file or column, or columns that are no numbers.
        MissingExtraError: pyarrow is not installed.
    """
    return _tables("parquet", path, test, (label, box, drop, scale), _read_parquet, _class_rows)


def table_targets(
    scheme: str,
    path: str,
    *,
    label: str = "",
    box: Box | None = None,
    drop: str = "",
    scale: str = "",
    test: str = "",
    sep: str = "",
) -> Pair:
    """Read a table with targets of another task than classification: a number, or several labels.

    Args:
        scheme: ``csv`` or ``parquet``.
        path: the file.
        label: name of the target column, or several separated by commas.
        box: lowest and highest valid value of a feature.
        drop: names of columns to leave out, separated by commas.
        scale: ``std`` or ``range``; see `csv_table`.
        test: file of the test rows.
        sep: of a CSV file; see `csv_table`.

    Returns:
        The training set and the test set.

    Raises:
        DataError: no such file or column, or columns that are no numbers.
        MissingExtraError: pyarrow is not installed.
    """
    read = _read_parquet if scheme == "parquet" else lambda file: _read_csv(file, sep)
    return _tables(scheme, path, test, (label, box, drop, scale), read, targets_of_columns)


def _class_rows(columns: Columns, label: str) -> TableRows:
    return with_class_names(table_of_columns(columns, label))


def _tables(
    scheme: str,
    path: str,
    test: str,
    options: tuple[str, Box | None, str, str],
    read: Callable[[Path], Columns],
    rows_of: Callable[[Columns, str], TableRows],
) -> Pair:
    label, box, drop, scale = options
    files = [Path(each).expanduser() for each in (path, test) if each]
    parts = [_without(read(file), drop, file) for file in files]
    if not label:
        names = list(parts[0])
        raise DataError(
            f"{scheme}:{path} needs its label column: {scheme}:{path}?label={names[-1]}; its columns: {', '.join(names[:20])}"
        )
    if list(parts[0]) != list(parts[-1]):
        raise DataError(f"{files[-1]} has other columns than {files[0]}; give both the same header")
    try:
        table = rows_of({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, label)
    except DataError as cause:
        raise DataError(f"{path}: {cause}") from cause
    first = len(next(iter(parts[0].values())))
    held = [row >= first if test else is_test(str(row)) for row in range(len(table.labels))]
    return split_table(table, held, f"{scheme}:{files[0].name.split('.')[0]}", box, scale)


def split_table(table: TableRows, held: Sequence[bool], name: str, box: Box | None, scale: str = "") -> Pair:
    """Return the rows of a table as training set and test set.

    Args:
        table: features with labels and their classes, or with targets.
        held: whether each row belongs to the test set.
        name: what the data is called in results.
        box: lowest and highest valid value of a feature.
        scale: ``std`` or ``range``; empty for the values as they are.

    Returns:
        The training set and the test set.

    Raises:
        DataError: an empty part, another scale, or values outside the box.
    """
    test = torch.tensor(held)
    if not bool(test.any()) or bool(test.all()):
        raise DataError(f"{name}: {len(held)} rows are too few to split; give the test rows in a file: ?test=FILE")
    values = torch.from_numpy(scaled_values(table.values, ~np.array(held), scale).astype(np.float32))
    train, held_out = (
        Table(values[rows], table.labels[rows], table.classes, name, split, box, table.columns)
        for rows, split in ((~test, "train"), (test, "test"))
    )
    return train, held_out


def scaled_values(values: Any, training: Any, scale: str) -> Any:
    """Return features in units that can be compared.

    Args:
        values: features ``(N, F)``.
        training: whether each row belongs to the training set ``(N,)``.
        scale: ``std`` for ``(x - mean) / std`` of the training rows, ``range`` for [0, 1] over all rows, empty for no change.

    Returns:
        Features ``(N, F)``; a feature without spread becomes 0.

    Raises:
        DataError: another scale.

    Example:
        >>> scaled_values(np.array([[1.0], [3.0], [5.0]]), np.array([True, True, False]), "std").tolist()
        [[-1.0], [1.0], [3.0]]
    """
    if scale not in _SCALES:
        raise DataError(f"scale={scale}; allowed: std (standard deviations from the mean) and range (to [0, 1])")
    if not scale:
        return values
    base = values[training] if scale == "std" else values
    start, unit = (base.mean(0), base.std(0)) if scale == "std" else (base.min(0), np.ptp(base, axis=0))
    return (values - start) / np.where(unit > 0, unit, 1.0)


def _without(columns: Columns, drop: str, file: Path) -> Columns:
    names = [name for name in drop.split(",") if name]
    for name in names:
        if name not in columns:
            raise DataError(f"{file} has no column {name!r} to leave out; its columns: {', '.join(list(columns)[:20])}")
    return {name: column for name, column in columns.items() if name not in names}


def _read_csv(file: Path, sep: str) -> Columns:
    try:
        with _open_text(file) as stream:
            lines = list(_rows(stream, file, _SEPARATORS.get(sep, sep)))
    except FileNotFoundError as cause:
        raise DataError(f"no file {file}.{did_you_mean_path(file)} Give csv:FILE?label=COLUMN") from cause
    except (OSError, UnicodeDecodeError, csv.Error, EOFError) as cause:
        raise DataError(f"{file} is no readable CSV file ({first_line(cause)}); save it as UTF-8 text") from cause
    if len(lines) < 2:
        raise DataError(f"{file} has {len(lines)} lines; give a header and at least one row")
    header, *rows = lines
    _check_header(file, header)
    return {name: _column([row[k] for row in rows]) for k, name in enumerate(header)}


def _open_text(file: Path) -> io.TextIOBase:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def _rows(stream: io.TextIOBase, file: Path, sep: str) -> Iterator[list[str]]:
    first = stream.readline()
    sep = sep or max(",;\t|", key=first.count)
    yield (header := [name.strip() for name in next(csv.reader([first], delimiter=sep), [])])
    for number, row in enumerate(csv.reader(stream, delimiter=sep), 2):
        if not row:
            continue
        if len(row) != len(header):
            raise DataError(
                f"{file}, line {number}: {len(row)} cells for {len(header)} columns; repair the line (or give ?sep=)"
            )
        yield row


def _check_header(file: Path, header: list[str]) -> None:
    if all(_is_number(name) for name in header):
        raise DataError(f"{file} begins with numbers; give it a header, one name a column")
    twice = next((name for k, name in enumerate(header) if name in header[:k]), None)
    if twice is not None:
        raise DataError(f"{file} has the column {twice!r} twice; give each its own name")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _column(cells: list[str]) -> Any:
    """Return whole numbers as int64, numbers as float64 with NaN for missing cells, anything else as text."""
    try:
        return np.array([int(cell) for cell in cells])
    except (ValueError, OverflowError):
        pass
    try:
        return np.array([float("nan") if cell.strip().lower() in _MISSING else float(cell) for cell in cells])
    except ValueError:
        return np.array([cell.strip() for cell in cells])


def _read_parquet(file: Path) -> Columns:
    library = import_extra("pyarrow.parquet", "advreg[tables]")
    if not file.is_file():
        raise DataError(f"no file {file}.{did_you_mean_path(file)} Give parquet:FILE?label=COLUMN")
    try:
        table = library.read_table(file)
    except Exception as cause:
        raise DataError(f"{file} is no readable Parquet file ({first_line(cause)})") from cause
    return {name: np.asarray(table[name]) for name in table.column_names}

"""Tables of pandas, polars and pyarrow: one label column, the others numbers; no library is imported for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advreg.data.validation import check_labels
from advreg.errors import DataError, did_you_mean

_LIBRARIES = ("pandas", "polars", "pyarrow")
_KINDS = {"M": "dates", "m": "time spans", "c": "complex numbers"}


@dataclass(frozen=True, eq=False)
class TableRows:
    """Features ``(N, F)`` with their names, and labels ``(N,)`` with the names of their classes, or targets ``(N, ...)``."""

    values: Any
    labels: Tensor
    classes: tuple[str, ...]
    columns: tuple[str, ...]


def is_table(data: object) -> bool:
    """Return whether data is a table of pandas, polars or pyarrow."""
    library = type(data).__module__.partition(".")[0]
    return library in _LIBRARIES and (hasattr(data, "columns") or hasattr(data, "column_names"))


def as_table(table: Any, label: str) -> TableRows:
    """Return features and labels of a table.

    Args:
        table: a table of pandas, polars or pyarrow.
        label: name of the label column: whole numbers from 0, or names of classes.

    Returns:
        Features in float64 unless all columns are float32, in the table's order.

    Raises:
        DataError: no such column, a column of text or with missing values, or labels that are no classes.
    """
    names = [str(name) for name in getattr(table, "column_names", None) or table.columns]
    return table_of_columns(
        {name: np.asarray(table[name]) for name in names},
        label,
    )


def table_of_columns(columns: dict[str, Any], label: str) -> TableRows:
    """Return features and labels from columns by name.

    Args:
        columns: arrays ``(N,)`` by name.
        label: name of the label column.

    Returns:
        The features, the labels, and the names of both.

    Raises:
        DataError: no such column, a column of text or with missing values, or labels that are no classes.

    Example:
        >>> found = table_of_columns({"age": np.array([20, 30]), "paid": np.array(["no", "yes"])}, "paid")
        >>> found.values.tolist(), found.labels, found.classes
        ([[20.0], [30.0]], tensor([0, 1]), ('no', 'yes'))
    """
    features = _split_columns(columns, [label])
    labels, classes = _labels(label, columns[label])
    return TableRows(np.stack(list(features.values()), axis=1), labels, classes, tuple(features))


def targets_of_columns(columns: dict[str, Any], label: str) -> TableRows:
    """Return features and targets of another task than classification from columns by name.

    Args:
        columns: arrays ``(N,)`` by name.
        label: name of the target column, or several separated by commas.

    Returns:
        The features, and targets ``(N,)`` of one column or ``(N, L)`` of several: int64 where all are whole, else float32.

    Raises:
        DataError: no such column, or a column of text or with missing values.

    Example:
        >>> table = {"age": np.array([20, 30]), "smokes": np.array([0, 1]), "drives": np.array([1, 1])}
        >>> targets_of_columns(table, "smokes,drives").labels.tolist()
        [[0, 1], [1, 1]]
    """
    names = [name.strip() for name in label.split(",")]
    features = _split_columns(columns, names)
    targets = np.stack([_feature(name, columns[name]) for name in names], axis=1)
    whole = all(columns[name].dtype.kind in "biu" for name in names)
    y = torch.from_numpy(targets.astype(np.int64 if whole else np.float32))
    return TableRows(np.stack(list(features.values()), axis=1), y[:, 0] if len(names) == 1 else y, (), tuple(features))


def _split_columns(columns: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Return the features by name."""
    missing = next((name for name in labels if name not in columns), None)
    if missing is not None:
        found = ", ".join(list(columns)[:20])
        raise DataError(f"the table has no column {missing!r}.{did_you_mean(missing, columns)} Its columns: {found}")
    features = {name: _feature(name, column) for name, column in columns.items() if name not in labels}
    rows = len(columns[labels[0]])
    if not features or not rows:
        raise DataError(f"the table has {len(features)} features in {rows} rows; give at least one")
    return features


def with_class_names(table: TableRows) -> TableRows:
    """Return the rows with a name for each class, its number where it has none.

    Args:
        table: rows with labels.

    Returns:
        The rows.

    Raises:
        DataError: a label below 0, or one so large that the names would fill the memory.
    """
    check_labels(table.labels)
    return replace(table, classes=table.classes or tuple(str(k) for k in range(int(table.labels.max()) + 1)))


def _feature(name: str, column: Any) -> Any:
    kind = column.dtype.kind
    if kind in "OUST":
        _reject_missing(name, sum(value is None for value in column.tolist()))
        example = next((value for value in column.tolist() if not _is_number(value)), "")
        raise DataError(
            f"column {name!r} holds text such as {example!r}; encode it as numbers, one column a category, or leave it out; "
            "texts have verbs of their own, see advreg text --help"
        )
    if kind not in "biuf":
        raise DataError(
            f"column {name!r} holds {_KINDS.get(kind, str(column.dtype))}; give it as numbers, or leave it out"
        )
    numbers = column if column.dtype == np.float32 else column.astype(np.float64)
    _reject_missing(name, int((~np.isfinite(numbers)).sum()))
    return numbers


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]  # TypeError is caught
    except (TypeError, ValueError):
        return False
    return True


def _reject_missing(name: str, missing: int) -> None:
    if missing:
        count = "one value that is" if missing == 1 else f"{missing} values that are"
        raise DataError(f"column {name!r} has {count} missing, NaN or infinite; fill them or leave the rows out")


def _labels(name: str, column: Any) -> tuple[Tensor, tuple[str, ...]]:
    if column.dtype.kind in "iu":
        return torch.from_numpy(column.astype(np.int64)), ()
    if column.dtype.kind == "b":
        return torch.from_numpy(column.astype(np.int64)), ("false", "true")
    values = column.tolist()
    _reject_missing(name, sum(value is None or value != value or value == "" for value in values))
    if not all(isinstance(value, str) for value in values):
        raise DataError(
            f"the label column {name!r} holds {column.dtype}; give whole numbers from 0, or names of classes"
        )
    classes = tuple(sorted(set(values)))
    number = {each: k for k, each in enumerate(classes)}
    return torch.tensor([number[value] for value in values]), classes

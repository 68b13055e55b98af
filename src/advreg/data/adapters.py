"""Rows of the user's own data, in a fixed order: tensors, arrays, torch data sets, loaders, dict rows, tables.

What is in memory comes whole, so that its fingerprint covers all rows; anything else is read as far as it is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from advreg.data.columns import as_table, is_table
from advreg.data.row_values import label_of, stack_inputs, to_tensor
from advreg.errors import DataError

if TYPE_CHECKING:
    from advreg.data.dataset import Dataset
    from advreg.data.streaming import StreamingDataset
    from advreg.data.table import Table

    Data: TypeAlias = (
        Dataset
        | Table
        | StreamingDataset
        | TorchDataset[Any]
        | DataLoader[Any]
        | tuple[Any, Any]
        | tuple[Any, str, str]
        | list[Any]
    )
    """What evaluations take; ``docs/your-data.md`` lists the forms."""

INPUTS = ("pixel_values", "image", "input_values", "features", "x")
"""Names of the inputs in rows that are mappings, the first found first."""
LABELS = ("labels", "label", "target", "y")
"""Names of the labels in rows that are mappings."""

_FORMS = (
    "give a data set of advreg.load_data, or a pair (x, y) of tensors, arrays or lists; "
    "also a DataLoader, a Dataset of pairs, rows with names, or (table, 'label')"
)


@dataclass(frozen=True, eq=False)
class DataRows:
    """Inputs ``(N, ...)`` and labels ``(N, ...)`` in order, with what the source tells about them.

    Attributes:
        x, y: inputs and labels.
        classes: names of the classes; empty where the source has none.
        columns: names of the features of a table; empty for other data.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def is_own(data: object) -> TypeGuard[Dataset | Table | StreamingDataset]:
    """Return whether data is a data set of advreg, which has its own name, fingerprint and ``tensors(n)``."""
    return all(callable(getattr(data, name, None)) for name in ("tensors", "fingerprint"))


def read_rows(data: Any, n: int | None, dtype: torch.dtype | None = None) -> DataRows:
    """Return rows of the data in order: all that is in memory already, else the first ``n``.

    Args:
        data: a pair ``(x, y)`` of tensors, arrays or nested lists; a `TensorDataset`; a `DataLoader` without shuffling, which
            is iterated once; rows with ``len`` and an index, each a pair or a mapping; ``(rows, "x column", "y column")``;
            ``(table, "label column")`` of pandas, polars or pyarrow.
        n: number of rows; all if None.
        dtype: floating type for arrays in float64, NumPy's default; float32 if None. Tensors keep theirs.

    Returns:
        The rows, contiguous in memory.

    Raises:
        DataError: another form, rows that are no pairs, inputs of unequal shapes, or an order that does not last.

    Example:
        >>> rows = read_rows([([0.0, 1.0], 1), ([0.5, 0.5], 0)], n=1)
        >>> rows.x, rows.y
        (tensor([[0., 1.]]), tensor([1]))
    """
    if isinstance(data, TensorDataset):
        data = _pair_of(data)
    if isinstance(data, DataLoader):
        return _stack(_rows_of_loader(data), n, dtype, data.dataset)
    if isinstance(data, tuple) and len(data) == 2 and is_table(data[0]) and isinstance(data[1], str):
        table = as_table(*data)
        return DataRows(to_tensor(table.values, "x", dtype), table.labels, table.classes, table.columns)
    if _is_row_data(data):
        rows, names = (data[0], data[1:]) if _has_named_columns(data) else (data, ())
        _require_lasting_rows(rows)
        return _stack((_pair_of_row(rows[k], names) for k in range(len(rows))), n, dtype, rows)
    if isinstance(data, tuple) and len(data) == 2 and not any(is_own(part) for part in data):
        return DataRows(to_tensor(data[0], "x", dtype), to_tensor(data[1], "y", dtype))
    raise DataError(_refusal(data))


def pair_of_batch(batch: Any) -> tuple[Any, Any]:
    """Return inputs and labels of a row or a batch: a pair, or a mapping with known names.

    Args:
        batch: ``(x, y)``, or a mapping such as ``{"pixel_values": ..., "labels": ...}``.

    Returns:
        Inputs and labels as they are.

    Raises:
        DataError: another number of parts, or a mapping without such names.

    Example:
        >>> pair_of_batch({"image": "inputs", "label": 3})
        ('inputs', 3)
    """
    return _pair_of_row(batch, ())


def _pair_of(data: TensorDataset) -> tuple[Tensor, ...]:
    if len(data.tensors) != 2:
        raise DataError(f"the TensorDataset holds {len(data.tensors)} tensors; give one of two, inputs and labels")
    return data.tensors


def _has_named_columns(data: object) -> bool:
    return isinstance(data, tuple) and len(data) == 3 and all(isinstance(name, str) for name in data[1:])


def _is_row_data(data: Any) -> bool:
    """Return whether data is read row by row: it has a length and an index, and its rows are pairs or mappings."""
    if _has_named_columns(data):
        return True
    if isinstance(data, list):
        return bool(data) and (isinstance(data[0], Mapping) or _is_list_of_pairs(data))
    if isinstance(data, str | tuple | Mapping | Tensor | IterableDataset) or is_table(data):
        return False
    return not hasattr(data, "__array__") and hasattr(data, "__len__") and hasattr(data, "__getitem__")


def _is_list_of_pairs(data: list[Any]) -> bool:
    return isinstance(data[0], tuple | list) and len(data[0]) == 2 and not isinstance(data[0][1], list)


def _rows_of_loader(loader: DataLoader[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield rows of each batch in turn; the loader draws a seed for its workers, which leaves torch's generator as it was."""
    _require_lasting_order(loader)
    state = torch.get_rng_state()
    batches = iter(loader)
    torch.set_rng_state(state)
    for batch in batches:
        x, y = _pair_of_row(batch, ())
        if loader.batch_size is None and loader.batch_sampler is None:  # no automatic batches: rows come one by one
            yield x, y
        else:
            yield from zip(x, y, strict=True)


def _require_lasting_order(loader: DataLoader[Any]) -> None:
    remedy = "an example has no lasting id; make it with shuffle=False and drop_last=False, or give its dataset"
    sampler = loader.sampler
    inner = getattr(loader.batch_sampler, "sampler", sampler)
    for each in (sampler, inner):
        if isinstance(each, RandomSampler) or "Random" in type(each).__name__ or getattr(each, "shuffle", False):
            raise DataError(f"the DataLoader shuffles ({type(each).__name__}): {remedy}")
    if loader.drop_last or getattr(loader.batch_sampler, "drop_last", False):
        raise DataError(f"the DataLoader drops its last batch: {remedy}")
    if not isinstance(loader.dataset, IterableDataset):
        _require_same_order(inner)
        _require_lasting_rows(loader.dataset)


def _require_same_order(sampler: Any) -> None:
    if type(sampler).__module__.startswith("torch.") or not isinstance(sampler, Sampler):
        return
    first, second = (list(itertools.islice(sampler, 1000)) for _ in range(2))
    if first != second:
        raise DataError(
            f"{type(sampler).__name__} gives another order each time; give the DataLoader's dataset instead"
        )


def _require_lasting_rows(rows: Any) -> None:
    """Raise if the first row differs when it is read twice, as with random transforms."""
    if not len(rows):
        raise DataError("the data holds no rows; give at least one pair of an input and its label")
    first, second = _parts_of(rows[0]), _parts_of(rows[0])
    if not all(_are_equal(a, b) for a, b in zip(first, second, strict=True)):
        raise DataError(
            "row 0 differs when it is read twice (a random transform?); evaluate with a transform that draws nothing"
        )


def _parts_of(row: Any) -> list[Any]:
    if isinstance(row, Mapping):
        return list(row.values())
    return list(row) if isinstance(row, tuple | list) else [row]


def _are_equal(a: Any, b: Any) -> bool:
    try:
        first, second = to_tensor(a, "x"), to_tensor(b, "x")
        return first.shape == second.shape and bool(((first == second) | ((first != first) & (second != second))).all())
    except (DataError, TypeError):
        return bool(a == b)


def _pair_of_row(row: Any, names: tuple[str, ...]) -> tuple[Any, Any]:
    """Return inputs and labels of a row: its two parts, or its values under these names."""
    if isinstance(row, Mapping):
        x_names, y_names = ((names[0],), (names[1],)) if names else (INPUTS, LABELS)
        return _value(row, x_names), _value(row, y_names)
    if isinstance(row, tuple | list) and len(row) == 2:
        return row[0], row[1]
    parts = f"{len(row)} parts" if isinstance(row, tuple | list) else type(row).__name__
    raise DataError(f"a row is {parts}, not a pair of an input and its label; give rows (x, y), or mappings with names")


def _value(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if name in row:
            return row[name]
    found = ", ".join(map(str, row))
    raise DataError(
        f"a row holds {found}, and none of {', '.join(names)}; name its columns: data=(rows, 'x column', 'y column')"
    )


def _stack(pairs: Iterator[tuple[Any, Any]], n: int | None, dtype: torch.dtype | None, source: Any) -> DataRows:
    rows = list(itertools.islice(pairs, n))
    if not rows:
        raise DataError("the data holds no rows; give at least one pair of an input and its label")
    x = stack_inputs([x for x, _ in rows], dtype)
    y = torch.stack([label_of(label, k) for k, (_, label) in enumerate(rows)])
    return DataRows(x, y, _class_names(source))


def _class_names(source: Any) -> tuple[str, ...]:
    """Return the names that torchvision's data sets and Hugging Face's label columns have."""
    names = getattr(source, "classes", None)
    features = getattr(source, "features", None)
    if names is None and isinstance(features, Mapping):
        names = next((f.names for key in LABELS if (f := features.get(key)) is not None and hasattr(f, "names")), None)
    return tuple(names) if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else ()


def _refusal(data: object) -> str:
    if isinstance(data, str):
        return f"data is the text {data!r}; a name goes through advreg.load_data({data!r})"
    if is_table(data):
        return f"data is a {type(data).__name__} without a label; give (table, 'name of its label column')"
    if isinstance(data, IterableDataset):
        return "data is an IterableDataset, which has no index; give DataLoader(data, batch_size=256)"
    if hasattr(data, "__next__"):
        return f"data is a {type(data).__name__}: an iterator has no lasting order; give what it iterates over"
    parts = f" of {', '.join(type(part).__name__ for part in data)}" if isinstance(data, tuple | list) else ""
    return f"data is a {type(data).__name__}{parts}; {_FORMS}"

"""The examples of an evaluation: tensors with a name and a fingerprint, split into fixed chunks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from advreg import runtime
from advreg.attacks.input_limits import reject_limits
from advreg.attacks.inputs import NAME_A_TASK, into_box, read_examples
from advreg.attacks.model import widen
from advreg.data.adapters import DataRows, is_own, read_rows
from advreg.data.table import Table, kind_of
from advreg.data.validation import check_labels
from advreg.errors import DataError
from advreg.results.ledger_rows import CHUNK
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel, as_threat

if TYPE_CHECKING:
    from advreg.data.adapters import Data

Box = tuple[float, float]
_BYTES = 255  # end of a box that counts in grey levels
_LOOK = 64  # images that are looked at
_LEVEL = 1e-3  # grey levels that float32 rounding may lose


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs ``(N, ...)`` in the threat's box, labels ``(N,)``, and their origin; an example's id is its row.

    ``columns`` has the names of a table's features, and ``kind`` says what the inputs are, as `advreg.data.table.kind_of`
    does; both are empty for 8-bit images.
    """

    x: Tensor
    y: Tensor
    name: str
    split: str
    classes: tuple[str, ...]
    sha256: str
    columns: tuple[str, ...] = ()
    kind: str = ""

    def __len__(self) -> int:
        return len(self.y)

    @property
    def outputs(self) -> int:
        """Number of classes in the data, 2 or more: the least number of outputs of a model."""
        return max(2, len(self.classes), int(self.y.max()) + 1)

    def description(self) -> dict[str, Any]:
        """Return kind and names of features for the results; nothing for 8-bit images."""
        return {"kind": self.kind} | ({"columns": list(self.columns)} if self.columns else {}) if self.kind else {}

    def chunks(self) -> list[Tensor]:
        """Return the ids of each chunk."""
        return list(torch.split(torch.arange(len(self)), CHUNK))


def examples_of(
    data: Data, n: int | None, threat: ThreatModel, dtype: torch.dtype | None = None, task: Task = CLASSES
) -> Examples:
    """Return the first ``n`` examples of data in any form of `advreg.data.adapters.read_rows`.

    The fingerprint covers all the data that is in memory, so it is the same for every ``n``; loaders and data sets that are
    read row by row have that of the examples read.

    Args:
        data: a data set of advreg, a pair of inputs ``(N, ...)`` and labels ``(N,)``, a loader, rows, or a table.
        n: number of examples; all if None.
        threat: its box must contain the inputs.
        dtype: floating type for arrays in float64, such as the model's; float32 if None.
        task: what an output is worth; other tasks than classification have targets ``(N, ...)``.

    Returns:
        The examples.

    Raises:
        DataError: data of no such form, no such number of examples, or tensors that do not fit each other or the box.
    """
    if is_own(data):
        return _of_data_set(data, n, threat, task)
    return _of_rows(read_rows(data, n, dtype), n, threat, task)


def box_of(data: Data, box: Box | None = None) -> Box:
    """Return the box given, else that of a data set that has one, else [0, 1].

    Args:
        data: data in any form of `examples_of`.
        box: lowest and highest valid value of an input, or None.

    Returns:
        The box.
    """
    return box or getattr(data, "box", None) or (0.0, 1.0)


def threat_on(data: Data, threat: ThreatModel | str) -> ThreatModel:
    """Return the threat model; text without a box takes the box of the data set.

    Args:
        data: data in any form of `examples_of`.
        threat: a threat model, or text such as ``"linf:8/255"``.

    Returns:
        The threat model.

    Raises:
        ThreatError: malformed text, or neither text nor a threat model.

    Example:
        >>> threat_on((torch.zeros(1, 2), torch.tensor([0])), "l2:0.5")
        ThreatModel(norm='l2', eps=0.5, box=(0.0, 1.0))
    """
    if not isinstance(threat, str) or "@" in threat:
        return as_threat(threat)
    low, high = box_of(data)
    return as_threat(threat if (low, high) == (0.0, 1.0) else f"{threat}@{low!r},{high!r}")


def first_examples(
    data: Data, n: int, threat: ThreatModel, dtype: torch.dtype | None = None, task: Task = CLASSES
) -> Examples:
    """Return the first ``n`` examples as `examples_of` does, or all where there are fewer.

    Args:
        data: data in any form of `examples_of`.
        n: number of examples at most.
        threat: its box must contain the inputs.
        dtype: floating type for arrays in float64; float32 if None.
        task: what an output is worth.

    Returns:
        The examples.

    Example:
        >>> data = torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)
        >>> len(first_examples(data, 500, ThreatModel("linf", 0.1)))
        3
    """
    if is_own(data):
        return _of_data_set(data, min(n, len(data)), threat, task)
    rows = read_rows(data, n, dtype)
    return _of_rows(rows, min(n, _size(rows.x, rows.y)), threat, task)


def first_tensors(data: Data, n: int) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of the first ``n`` examples at most, unchecked, such as those that a surrogate trains on.

    Args:
        data: data in any form of `examples_of`.
        n: number of examples at most.

    Returns:
        Inputs ``(N, ...)`` and labels ``(N,)``.

    Raises:
        DataError: data of no such form.

    Example:
        >>> first_tensors((torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)), 2)[0].shape
        torch.Size([2, 4])
    """
    if is_own(data):
        x, y = data.tensors(n=min(n, len(data)))
        return x, y
    rows = read_rows(data, n)
    return rows.x[:n], rows.y[:n]


def _of_data_set(data: Any, n: int | None, threat: ThreatModel, task: Task) -> Examples:
    _require_count(n, len(data))
    if task is CLASSES and not data.classes:
        raise DataError(f"{data!r} has targets of another task than classification; {NAME_A_TASK}")
    _require_memory(n or len(data), data.tensors(1)[0])
    x, y = (_outside_inference_mode(tensor).contiguous() for tensor in data.tensors(n))
    if isinstance(data, Table):
        x, y = (into_box(x, threat.box), y) if task is CLASSES else read_examples(x, y, threat, task)
        reject_limits(x, threat)
        kind = "" if _is_8_bit(x, threat) else data.kind
        return Examples(x, y, data.name, data.split, data.classes, data.fingerprint(), data.columns, kind)
    if threat.box[1] >= _BYTES:
        raise DataError(
            f"the box is [{threat.box[0]:g}, {threat.box[1]:g}] and {data.name} holds 8-bit images in [0, 1]; "
            "leave the box out, and write eps as 8/255"
        )
    return Examples(x, y, data.name, data.split, data.classes, data.fingerprint())


def _of_rows(rows: DataRows, n: int | None, threat: ThreatModel, task: Task = CLASSES) -> Examples:
    _require_count(n, _size(rows.x, rows.y))
    few, labels = read_examples(rows.x[:n], rows.y[:n], threat, task)
    if task is CLASSES and labels.ndim > 1:
        raise DataError(
            f"y is {rows.y.dtype} {tuple(rows.y.shape)}; evaluations need labels (N,): give y.argmax(1); "
            "several labels: task='labels'"
        )
    if task is CLASSES:
        check_labels(labels)
    names = () if labels.ndim > 1 or labels.is_floating_point() else tuple(map(str, range(int(labels.max()) + 1)))
    return Examples(
        widen(_outside_inference_mode(few)),
        _outside_inference_mode(labels),
        "tensors",
        "given",
        names if len(rows.classes) < len(names) else rows.classes,
        _fingerprint(rows.x, rows.y.flatten().long() if task is CLASSES else labels),
        rows.columns,
        "" if _is_8_bit(few, threat) else kind_of(few),
    )


def _is_8_bit(x: Tensor, threat: ThreatModel) -> bool:
    """Return whether inputs are images on 255 equal steps of the box, so that eps is a number of grey levels too."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        return False
    low, high = threat.box
    levels = (x[:_LOOK].double() - low) / (high - low) * 255
    return bool(((levels - levels.round()).abs() < _LEVEL).all())


def _require_count(n: int | None, size: int) -> None:
    if n is not None and not 1 <= n <= size:
        raise DataError(f"n is {n}; the data holds {size} examples: give 1 to {size}")


def _require_memory(n: int, one: Tensor) -> None:
    """Raise where the examples themselves do not fit: attacks take them in batches that do, but all are held."""
    need, most = n * one.nbytes, runtime.total_memory()
    if need > most:
        raise DataError(
            f"{n} examples of {'x'.join(map(str, one.shape[1:]))} need {need / 1e9:.3g} GB, this machine has "
            f"{most / 1e9:.3g} GB; give a smaller n"
        )


def _size(x: Tensor, y: Tensor) -> int:
    if not x.ndim or not y.ndim or len(x) != len(y) or not len(y):
        raise DataError(f"data is x {tuple(x.shape)} and y {tuple(y.shape)}; give (N, ...) and (N,), N at least 1")
    return len(y)


def _outside_inference_mode(tensor: Tensor) -> Tensor:
    """Return a tensor that autograd accepts: a copy if it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def _fingerprint(x: Tensor, y: Tensor) -> str:
    digest = hashlib.sha256(str(tuple(x.shape)).encode())
    for tensor in (x, y):
        digest.update(runtime.raw_bytes(tensor))
    return digest.hexdigest()

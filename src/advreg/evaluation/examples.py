"""The examples of an evaluation: tensors with a name and a fingerprint, split into fixed chunks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advreg import runtime
from advreg.attacks.inputs import as_tensor, read_batch
from advreg.attacks.model import widen
from advreg.data.validation import check_labels
from advreg.errors import DataError
from advreg.results.ledger_rows import CHUNK
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.data import Dataset


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs ``(N, ...)`` in the threat's box, labels ``(N,)``, and their origin; an example's id is its row."""

    x: Tensor
    y: Tensor
    name: str
    split: str
    classes: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.y)

    @property
    def outputs(self) -> int:
        """Number of classes in the data, 2 or more: the least number of outputs of a model."""
        return max(2, len(self.classes), int(self.y.max()) + 1)

    def chunks(self) -> list[Tensor]:
        """Return the ids of each chunk."""
        return list(torch.split(torch.arange(len(self)), CHUNK))


def count(data: Dataset | tuple[Tensor, Tensor]) -> int:
    """Return the number of examples in a data set or a pair.

    Args:
        data: a data set, or inputs and labels.

    Returns:
        The number of examples.

    Raises:
        DataError: it is neither, or inputs and labels do not fit each other.

    Example:
        >>> count((torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)))
        3
    """
    _require_examples(data)
    return _size(*_pair_of(data)) if isinstance(data, tuple) else len(data)


def examples_of(data: Dataset | tuple[Tensor, Tensor], n: int | None, threat: ThreatModel) -> Examples:
    """Return the first ``n`` examples of a data set or of a pair ``(x, y)`` of tensors, arrays or lists.

    The fingerprint covers all the data, so it is the same for every ``n``.

    Args:
        data: a data set, or inputs ``(N, ...)`` and labels ``(N,)``.
        n: number of examples; all if None.
        threat: its box must contain the inputs.

    Returns:
        The examples.

    Raises:
        DataError: neither a data set nor a pair, no such number of examples, or tensors that do not fit each other
            or the box.
    """
    _require_examples(data)
    if isinstance(data, tuple):
        return _of_pair(*_pair_of(data), n, threat)
    _require_count(n, len(data))
    x, y = data.tensors(n)
    return Examples(
        _outside_inference_mode(x), _outside_inference_mode(y), data.name, data.split, data.classes, data.fingerprint()
    )


def _pair_of(data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return as_tensor(data[0], "x"), as_tensor(data[1], "y")


def _of_pair(x: Tensor, y: Tensor, n: int | None, threat: ThreatModel) -> Examples:
    _require_count(n, _size(x, y))
    few, labels = read_batch(x[:n], y[:n], threat)
    if labels.ndim > 1:
        raise DataError(f"y is {y.dtype} {tuple(y.shape)}; evaluations need labels (N,): give y.argmax(1)")
    check_labels(labels)
    names = tuple(str(k) for k in range(int(labels.max()) + 1))
    return Examples(
        widen(_outside_inference_mode(few)),
        _outside_inference_mode(labels),
        "tensors",
        "given",
        names,
        _fingerprint(x, y.flatten().long()),
    )


def _require_count(n: int | None, size: int) -> None:
    if n is not None and not 1 <= n <= size:
        raise DataError(f"n is {n}; the data holds {size} examples: give 1 to {size}")


def _size(x: Tensor, y: Tensor) -> int:
    if not x.ndim or not y.ndim or len(x) != len(y) or not len(y):
        raise DataError(f"data is x {tuple(x.shape)} and y {tuple(y.shape)}; give (N, ...) and (N,), N at least 1")
    return len(y)


def _outside_inference_mode(tensor: Tensor) -> Tensor:
    """Return a tensor that autograd accepts: a copy if it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def _require_examples(data: object) -> None:
    pair = isinstance(data, tuple) and len(data) == 2 and not any(callable(getattr(p, "tensors", None)) for p in data)
    if pair or (not isinstance(data, tuple) and callable(getattr(data, "tensors", None))):
        return
    parts = f" of {', '.join(type(part).__name__ for part in data)}" if isinstance(data, tuple | list) else ""
    raise DataError(
        f"data is a {type(data).__name__}{parts}; give a data set of advreg.load_data, or a pair (x, y) "
        "of tensors, arrays or lists"
    )


def _fingerprint(x: Tensor, y: Tensor) -> str:
    digest = hashlib.sha256(str(tuple(x.shape)).encode())
    for tensor in (x, y):
        digest.update(runtime.raw_bytes(tensor))
    return digest.hexdigest()

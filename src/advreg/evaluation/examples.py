"""What is evaluated: tensors with a name and a fingerprint, cut into fixed chunks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advreg.attacks.engine import check_batch
from advreg.errors import DataError
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.data import Dataset

CHUNK = 1024
"""Examples whose survivors are gathered before each attack: the unit of sharding. Late attacks have few survivors, and a
step costs a third as much an example at 64 rows as at 8."""

UNIT = 256
"""Examples attacked together at most: the unit of work and of resuming."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs ``(N, ...)`` in the threat's box, labels ``(N,)``, and where they come from; an id is a row."""

    x: Tensor
    y: Tensor
    name: str
    split: str
    classes: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.y)

    def chunks(self) -> list[Tensor]:
        """Return the ids of each chunk."""
        return list(torch.split(torch.arange(len(self)), CHUNK))


def examples_of(data: Dataset | tuple[Tensor, Tensor], n: int | None, threat: ThreatModel) -> Examples:
    """Return the first ``n`` examples of a data set or of a pair of tensors ``(x, y)``.

    The fingerprint is that of all the data, of which any may be looked at: the first examples are the same for every ``n``.

    Raises:
        DataError: neither a data set nor a pair of tensors, no such number of examples, or tensors that do not fit each other
            or the box.
    """
    _refuse_others(data)
    size = len(data[1]) if isinstance(data, tuple) else len(data)
    if n is not None and not 1 <= n <= size:
        raise DataError(f"n is {n}; the data holds {size} examples: give 1 to {size}")
    if isinstance(data, tuple):
        x, y = data[0][:n], data[1][:n]
        check_batch(x, y, threat)
        if y.ndim > 1:
            raise DataError(f"y is {y.dtype} {tuple(y.shape)}; right answers are counted by labels (N,): y.argmax(1)")
        names = tuple(str(k) for k in range(int(y.max()) + 1))
        return Examples(_plain(x), _plain(y.long()), "tensors", "given", names, _sha256(data[0], data[1].long()))
    x, y = data.tensors(n)
    return Examples(_plain(x), _plain(y), data.name, data.split, data.classes, data.fingerprint())


def _plain(tensor: Tensor) -> Tensor:
    """Return a tensor that a gradient may meet, a copy if it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def _refuse_others(data: object) -> None:
    pair = isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
    if pair or (not isinstance(data, tuple) and callable(getattr(data, "tensors", None))):
        return
    parts = f" of {', '.join(type(part).__name__ for part in data)}" if isinstance(data, tuple | list) else ""
    raise DataError(
        f"data is a {type(data).__name__}{parts}; give a data set of advreg.load_data, or a pair (x, y) of tensors"
    )


def _sha256(x: Tensor, y: Tensor) -> str:
    digest = hashlib.sha256(str(tuple(x.shape)).encode())
    for tensor in (x, y):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

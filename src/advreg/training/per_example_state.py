"""What parts of training remember from step to step: rows by example id, and how all of it is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from advreg import distributed
from advreg.errors import RunError

Saved = dict[str, Tensor]


@runtime_checkable
class HasPerExampleState(Protocol):
    """An attack, a recipe or a policy whose next step depends on its last ones."""

    def state_dict(self) -> Saved:
        """Return all that the next step depends on, as tensors."""

    def load_state_dict(self, state: Saved) -> None:
        """Go on from what `state_dict` returned."""


@runtime_checkable
class Counts(Protocol):
    """A part that wants to know when an epoch begins."""

    def start_epoch(self, epoch: int) -> None:
        """Hear that this epoch, 1 for the first, is about to begin."""


@runtime_checkable
class Shares(Protocol):
    """A part whose state the ranks synchronise."""

    def share(self) -> None:
        """Let every rank know what any learned since the last time."""


class PerExampleTable:
    """One row of numbers for each example, found by its id, whatever order and batches examples come in.

    Args:
        examples: number of examples, ids 0 to examples - 1; 0 to grow with the ids, which waits for the device at each read.
        shape: shape of one row.
        fill: what a row holds before it is written.
        dtype: floating type in which rows are kept.

    Example:
        >>> rows = PerExampleTable(shape=(2,), fill=0.5)
        >>> rows.write(torch.tensor([7]), torch.ones(1, 2))
        >>> rows.read(torch.tensor([7, 3])).tolist()
        [[1.0, 1.0], [0.5, 0.5]]
    """

    def __init__(
        self, examples: int = 0, shape: tuple[int, ...] = (), fill: float = 0.0, dtype: torch.dtype = torch.float32
    ) -> None:
        self.examples, self.fill = examples, fill
        self.values = torch.full((examples, *shape), fill, dtype=dtype)
        self.fresh = torch.zeros(examples, dtype=torch.bool)

    def read(self, ids: Tensor) -> Tensor:
        """Return the rows of these examples ``(B, *shape)``, a copy on the device of ``ids``."""
        self._make_room(ids)
        return self.values[ids]

    def write(self, ids: Tensor, rows: Tensor) -> None:
        """Keep these rows ``(B, *shape)`` for these examples."""
        self._make_room(ids)
        self.values[ids] = rows.detach().to(self.values.dtype)
        self.fresh[ids] = True

    def clear(self) -> None:
        """Forget everything."""
        self.values.fill_(self.fill)
        self.fresh.zero_()

    def load(self, values: Tensor) -> None:
        """Go on with these rows, those of a checkpoint."""
        self.values, self.fresh = values.clone(), torch.zeros(len(values), dtype=torch.bool, device=values.device)

    def share(self) -> None:
        """Give every rank the rows that any rank wrote since the last call, the mean where several did.

        Ranks must agree on the number of rows: give ``examples``.
        """
        if not distributed.is_distributed():
            return
        writers = self.fresh.to(self.values.dtype).reshape(-1, *[1] * (self.values.ndim - 1))
        total = torch.where(writers > 0, self.values, torch.zeros_like(self.values))
        distributed.sum_in_place(total, writers)
        self.values = torch.where(writers > 0, total / writers.clamp_min(1), self.values)
        self.fresh.zero_()

    def _make_room(self, ids: Tensor) -> None:
        if self.values.device != ids.device:
            self.values, self.fresh = self.values.to(ids.device), self.fresh.to(ids.device)
        if self.examples:
            return
        missing = int(ids.max()) + 1 - len(self.values) if len(ids) else 0
        if missing > 0:
            more = max(missing, len(self.values))  # doubling: few copies however many examples come
            self.values = torch.cat([self.values, self.values.new_full((more, *self.values.shape[1:]), self.fill)])
            self.fresh = torch.cat([self.fresh, self.fresh.new_zeros(more)])


def states(parts: Mapping[str, object]) -> dict[str, Saved]:
    """Return the state of the parts that have one, by name.

    Example:
        >>> states({"attack": print})
        {}
    """
    return {name: part.state_dict() for name, part in parts.items() if isinstance(part, HasPerExampleState)}


def restore(parts: Mapping[str, object], saved: Mapping[str, Saved]) -> None:
    """Restore the state that `states` returned.

    Args:
        parts: name -> part.
        saved: what `states` returned.

    Raises:
        RunError: what was saved belongs to other parts.
    """
    wanted = {name: part for name, part in parts.items() if isinstance(part, HasPerExampleState)}
    if wanted.keys() != saved.keys():
        have, need = ", ".join(saved) or "nothing", ", ".join(wanted) or "nothing"
        raise RunError(f"the checkpoint remembers {have}, this run needs {need}; resume it as it was started")
    for name, part in wanted.items():
        part.load_state_dict(saved[name])


def start_epoch(parts: Mapping[str, object], epoch: int) -> None:
    """Call ``start_epoch`` of the parts that have it.

    Args:
        parts: name -> part.
        epoch: number of the epoch, from 1."""
    for part in parts.values():
        if isinstance(part, Counts):
            part.start_epoch(epoch)


def share(parts: Mapping[str, object]) -> None:
    """Synchronise the per-example state of the parts over all ranks; every rank must call it.

    Args:
        parts: name -> part."""
    for part in parts.values():
        if isinstance(part, Shares):
            part.share()

"""State that parts of training keep between steps: rows by example id, and their saving and restoring."""

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
    """An attack, a recipe or a policy with a state that later steps depend on."""

    def state_dict(self) -> Saved:
        """Return the state as tensors."""

    def load_state_dict(self, state: Saved) -> None:
        """Restore a state that `state_dict` returned.

        Args:
            state: the state.
        """


@runtime_checkable
class Counts(Protocol):
    """A part that is notified at the start of an epoch."""

    def start_epoch(self, epoch: int) -> None:
        """Take note of the start of an epoch.

        Args:
            epoch: number of the epoch, from 1.
        """


@runtime_checkable
class Shares(Protocol):
    """A part with a state that the ranks synchronise."""

    def share(self) -> None:
        """Give every rank the rows that any rank wrote since the last call."""


class PerExampleTable:
    """One row of numbers for each example, found by its id, whatever order and batches examples come in.

    Args:
        examples: number of examples, ids 0 to examples - 1; 0 to grow with the ids, which synchronises the device at each read.
        shape: shape of one row.
        fill: value of a row before it is written.
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
        """Return the rows of some examples ``(B, *shape)``, a copy on the device of ``ids``.

        Args:
            ids: example ids ``(B,)``.
        """
        self._make_room(ids)
        return self.values[ids]

    def write(self, ids: Tensor, rows: Tensor) -> None:
        """Write the rows of some examples.

        Args:
            ids: example ids ``(B,)``.
            rows: ``(B, *shape)``.
        """
        self._make_room(ids)
        self.values[ids] = rows.detach().to(self.values.dtype)
        self.fresh[ids] = True

    def clear(self) -> None:
        """Fill all rows with the initial value."""
        self.values.fill_(self.fill)
        self.fresh.zero_()

    def load(self, values: Tensor) -> None:
        """Replace all rows by those of a checkpoint.

        Args:
            values: ``(examples, *shape)``.
        """
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
            more = max(missing, len(self.values))  # doubling keeps the number of copies small
            self.values = torch.cat([self.values, self.values.new_full((more, *self.values.shape[1:]), self.fill)])
            self.fresh = torch.cat([self.fresh, self.fresh.new_zeros(more)])


def states(parts: Mapping[str, object]) -> dict[str, Saved]:
    """Return the state of the parts that have one, by name.

    Args:
        parts: name -> part.

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
        RunError: the saved state belongs to other parts.
    """
    wanted = {name: part for name, part in parts.items() if isinstance(part, HasPerExampleState)}
    if wanted.keys() != saved.keys():
        have, need = ", ".join(saved) or "nothing", ", ".join(wanted) or "nothing"
        raise RunError(
            f"the checkpoint holds state of {have}, this run needs {need}; resume it with its own configuration"
        )
    for name, part in wanted.items():
        part.load_state_dict(saved[name])


def start_epoch(parts: Mapping[str, object], epoch: int) -> None:
    """Call ``start_epoch`` of the parts that have it.

    Args:
        parts: name -> part.
        epoch: number of the epoch, from 1.
    """
    for part in parts.values():
        if isinstance(part, Counts):
            part.start_epoch(epoch)


def share(parts: Mapping[str, object]) -> None:
    """Synchronise the per-example state of the parts over all ranks; every rank must call it.

    Args:
        parts: name -> part.
    """
    for part in parts.values():
        if isinstance(part, Shares):
            part.share()

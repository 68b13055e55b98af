"""Several processes that share one task, as `torchrun` starts them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from torch import distributed

from advreg.errors import ConfigError

T = TypeVar("T")

_PATIENCE = timedelta(days=7)  # the others may be measuring for hours; whoever dies is noticed by the launcher


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is; alone by default.

    Attributes:
        rank: this process, from 0; 0 leads: it alone writes what belongs to all.
        world: how many processes there are.
        local: this process among those of its machine, and so its accelerator.

    Example:
        >>> Ranks(1, 3).share("abcdefg")
        'be'
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes what belongs to all."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of a list that all of them hold."""
        return items[self.rank :: self.world]

    def meet(self) -> None:
        """Wait until every process has come this far."""
        if self.world > 1:
            distributed.barrier()


ALONE = Ranks()
"""One process, as nearly always."""


def _told() -> Ranks:
    """Return what the environment says of this process."""
    values = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if values["WORLD_SIZE"] in (None, "1"):
        return ALONE
    try:
        return Ranks(int(values["RANK"] or ""), int(values["WORLD_SIZE"] or ""), int(values["LOCAL_RANK"] or "0"))
    except ValueError:
        said = ", ".join(f"{name} is {value!r}" for name, value in values.items())
        raise ConfigError(
            f"{said}; start several processes with torchrun, which sets all three, or unset them"
        ) from None


@contextmanager
def joined(backend: str = "gloo") -> Iterator[Ranks]:
    """Join the processes that were started together (``torchrun`` says so in the environment); alone where there are none.

    The group's threads have ended when this does, as long as nobody keeps what was wrapped inside: a thread that outlives the
    interpreter aborts the process.

    Args:
        backend: how they talk; gloo goes through the memory of the machine, ``cpu:gloo,cuda:nccl`` also between GPUs.

    Raises:
        ConfigError: the environment says how many processes there are, but not which this is.

    Example:
        >>> with joined() as ranks:
        ...     ranks.world
        1
    """
    found = _told()
    if found.world < 2:
        yield ALONE
        return
    if distributed.is_initialized():  # the caller's own group: his to end
        yield found
        return
    import torch.distributed.nn  # noqa: F401  # imported later, its default arguments would keep this group for ever

    try:
        distributed.init_process_group(backend, timeout=_PATIENCE)
    except ValueError as cause:
        raise ConfigError(
            f"process {found.rank} of {found.world} cannot join: {cause}; start all with torchrun"
        ) from None
    try:
        yield found
    finally:
        gc.collect()  # what was wrapped may wait in a cycle, and holds the group
        distributed.destroy_process_group()
